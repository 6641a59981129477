//! Far away: a registry of 50 ms and so many bytes a second for each connection, with dockerd before it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clients::Docker;
use crate::gateway::Gateway;
use crate::image::{Image, MIB};
use crate::machine::Trust;
use crate::upstream::GHCR;
use crate::world::World;

/// There and back.
const LATENCY: Duration = Duration::from_millis(50);
/// Bytes a second, of each connection.
const RATE: u64 = 4 << 20;
/// Bytes.
const WINDOW: u32 = 256 << 10;

#[test]
fn a_cold_pull_through_the_gateway_is_faster_than_without_one() {
    let world = World::new();
    // One layer is as large as the eleven others.
    let mut sizes = vec![3 * MIB; 11];
    sizes.push(33 * MIB);
    let image = Image::docker(&sizes);
    let name = world.publish(GHCR, "acme/far:1", &image);
    let far = world.far_away(LATENCY, RATE);
    let gateway = world.gateway(&far);
    // The same way to the same registry, with nothing between that knows what it carries.
    let tunnel = world.gateway(&format!(
        "builtin_registries = false\n{far}\n[policy]\ndefault = \"tunnel\""
    ));

    // The machine is shared: one beside the other would measure that.
    let pull = |proxy: &Gateway, roots: Trust| {
        let docker = Docker::start(world.machine_trusting(proxy, roots));
        let began = std::time::Instant::now();
        docker.pull(&name.full).ok();
        let took = began.elapsed();
        assert_eq!(docker.id(&name.full), image.id);
        took
    };
    let straight = pull(
        &tunnel,
        Trust::Everywhere(world.path().join("upstream.pem")),
    );
    let tunnelled = world.upstream.seen().blob_requests();
    assert!(tunnelled >= image.layers.len(), "it went another way");
    world.upstream.seen().forget();
    let cold = pull(&gateway, Trust::Everywhere(gateway.ca().to_owned()));

    let ratio = cold.as_secs_f64() / straight.as_secs_f64();
    println!(
        "dockerd, twelve layers: {straight:.1?} without, {cold:.1?} through a cold gateway: {ratio:.2}"
    );
    let metrics = gateway.metrics();
    assert!(
        metrics.contains("pierhead_download_splits_total 1"),
        "{metrics}"
    );
    let seen = world.upstream.seen();
    for blob in image.blobs() {
        // The large one's first connection is cut where the next part begins; what the buffers on the
        // way hold by then is sent twice.
        let spare = if blob.bytes.len() > 16 * MIB {
            8 * MIB
        } else {
            0
        };
        let sent = seen.sent(&blob.digest);
        let most = (blob.bytes.len() + spare) as u64;
        assert!(sent <= most, "{sent} bytes of {}: {seen}", blob.bytes.len());
    }
    // It is about a third; a machine that is busy with other things takes from both alike.
    assert!(
        ratio < 0.75,
        "{cold:?} through the gateway, {straight:?} without"
    );
}

/// Takes connections and leads them to `to`, from afar.
pub async fn relay(listener: TcpListener, to: SocketAddr, latency: Duration, rate: u64) {
    while let Ok((near, _)) = listener.accept().await {
        tokio::spawn(async move {
            let Ok(far) = narrow(to).await else {
                return;
            };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            // The hand shake of TCP takes its time, too.
            tokio::time::sleep(latency).await;
            tokio::join!(
                carry(near_read, far_write, latency / 2, u64::MAX),
                carry(far_read, near_write, latency / 2, rate),
            );
        });
    }
}

/// A connection with a small window: what the registry sends is on its way, and not in the machine's
/// buffers, where a connection that is cut would leave it.
async fn narrow(to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(WINDOW)?;
    socket.connect(to).await
}

/// One direction of a connection.
async fn carry(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    latency: Duration,
    rate: u64,
) {
    // What is under way at a time is bounded, as by a window.
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(16);
    let reads = async move {
        let mut free_at = Instant::now();
        loop {
            let mut piece = vec![0; 16 << 10];
            let n = from.read(&mut piece).await?;
            if n == 0 {
                return Ok::<_, io::Error>(());
            }
            piece.truncate(n);
            free_at = free_at.max(Instant::now()) + Duration::from_secs_f64(n as f64 / rate as f64);
            if sender.send((free_at + latency, piece)).await.is_err() {
                return Ok(());
            }
        }
    };
    let writes = async move {
        while let Some((due, piece)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            to.write_all(&piece).await?;
        }
        to.shutdown().await
    };
    let _ = tokio::join!(reads, writes);
}
