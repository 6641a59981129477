//! The classic text format, for scrapers that do not know OpenMetrics.

use std::collections::HashMap;

/// Rewrites an OpenMetrics exposition. There a counter's samples end in `_total` and its name does
/// not, an info is a type of its own, and units and the end are told; here not.
pub(super) fn classic(openmetrics: &str) -> String {
    let types: HashMap<&str, &str> = openmetrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .collect();
    let mut text = String::with_capacity(openmetrics.len());
    for line in openmetrics.lines() {
        let told = line
            .strip_prefix("# ")
            .and_then(|told| told.split_once(' '));
        let Some((what, rest)) = told else {
            if line != "# EOF" {
                text.push_str(line);
                text.push('\n');
            }
            continue;
        };
        let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
        let (suffix, kind) = match types.get(name) {
            Some(&"counter") => ("_total", "counter"),
            Some(&"info") => ("_info", "gauge"),
            Some(other) => ("", *other),
            None => ("", "untyped"),
        };
        let rest = match what {
            "HELP" => rest,
            "TYPE" => kind,
            _ => continue,
        };
        text.push_str(&format!("# {what} {name}{suffix} {rest}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_and_infos_are_named_as_their_samples_are() {
        let text = "# HELP a_build The build.\n# TYPE a_build info\na_build_info{version=\"1\"} 1\n\
             # HELP a_sent_bytes Sent.\n# TYPE a_sent_bytes counter\n# UNIT a_sent_bytes bytes\n\
             a_sent_bytes_total 7\n# HELP a_open Open.\n# TYPE a_open gauge\na_open 2\n# EOF\n";
        let expected = "# HELP a_build_info The build.\n# TYPE a_build_info gauge\n\
             a_build_info{version=\"1\"} 1\n# HELP a_sent_bytes_total Sent.\n\
             # TYPE a_sent_bytes_total counter\na_sent_bytes_total 7\n# HELP a_open Open.\n\
             # TYPE a_open gauge\na_open 2\n";
        assert_eq!(classic(text), expected);
    }
}
