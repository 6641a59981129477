use std::collections::{BTreeMap, BTreeSet};

use super::*;

/// Type, labels, help.
type Described = (String, String, String);

#[tokio::test]
async fn the_readme_lists_every_metric_as_it_is() {
    assert_eq!(listed(include_str!("../../../README.md")), exposed(&used()));
}

#[test]
fn counters_with_few_labels_are_there_before_the_first_event() {
    let text = Metrics::new().encode();
    for sample in [
        "pierhead_served_bytes_total{outcome=\"hit\"} 0",
        "pierhead_downloads_total{result=\"mismatch\"} 0",
        "pierhead_handshakes_total{result=\"failed\"} 0",
        "pierhead_connections_accepted_total{listener=\"proxy_tls\"} 0",
        "pierhead_leaves_minted_total 0",
    ] {
        assert!(text.contains(sample), "{sample} is missing:\n{text}");
    }
}

/// Metrics with everything counted once, so that all labels are seen.
fn used() -> Metrics {
    let metrics = Metrics::new();
    metrics.request(&metrics.tally("ghcr.io"), Outcome::Hit, 1);
    metrics.pulled(&metrics.tally("ghcr.io"));
    metrics.upstream_request("ghcr.io", "2xx", 0.1);
    metrics.rate_limit("ghcr.io", 100);
    metrics.rate_limit_remaining("ghcr.io", 76);
    metrics.login_refused("ghcr.io");
    metrics.reloaded(true);
    metrics.prefetch_failed(1);
    metrics.prefetched(1, 1);
    metrics
}

fn exposed(metrics: &Metrics) -> BTreeMap<String, Described> {
    let text = metrics.encode();
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        else {
            continue;
        };
        let help = format!("# HELP {name} ");
        let help = text.lines().find_map(|line| line.strip_prefix(&*help));
        let suffix = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        let mut labels = BTreeSet::new();
        let mut samples = 0;
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some(rest) = line.strip_prefix(name) else {
                continue;
            };
            let (tail, set) = rest.split_once('{').unwrap_or((rest, ""));
            let tail = tail.split(' ').next().unwrap();
            let histogram = kind == "histogram" && matches!(tail, "_bucket" | "_sum" | "_count");
            if tail != suffix && !histogram {
                continue;
            }
            samples += 1;
            let set = set.split('}').next().unwrap();
            let names = set.split(',').filter_map(|pair| pair.split_once('='));
            labels.extend(names.map(|(name, _)| name).filter(|name| *name != "le"));
        }
        assert!(samples > 0, "{name} has no sample: count it once in `used`");
        let labels: Vec<&str> = labels.into_iter().collect();
        let help = help.unwrap().trim_end_matches('.').to_owned();
        let described = (kind.to_owned(), labels.join(", "), help);
        found.insert(format!("{name}{suffix}"), described);
    }
    found
}

fn listed(readme: &str) -> BTreeMap<String, Described> {
    let rows = readme.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let name = cells.get(1)?.strip_prefix('`')?.strip_suffix('`')?;
        let ours = name.starts_with("pierhead_") || name.starts_with("process_");
        (ours && cells.len() == 6).then(|| {
            let described = (cells[2].into(), cells[3].into(), cells[4].into());
            (name.to_owned(), described)
        })
    });
    rows.collect()
}
