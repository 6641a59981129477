//! An upstream whose certificate does not verify is told of in words.

use crate::support::{Gateway, Upstream, authority::TestCa};

#[tokio::test]
async fn a_ping_says_why_upstream_is_not_trusted() {
    let up = Upstream::start().await;
    up.registry("registry.test");
    let stranger = TestCa::new("a stranger");
    let gateway = Gateway::before(&up).trusting(&stranger.pem).start().await;
    let client = gateway.client();
    let reply = client.get("https://registry.test/v2/").send().await;
    assert_eq!(reply.status, 502);
    let (_, message) = reply.oci_error().await;
    assert!(message.contains("upstream.ca_file"), "{message}");
    assert_eq!(up.requests(), 0);
}
