//! Which known name did somebody probably mean?

/// The known name nearest to `wrong`, if one is near: at most one edit for each three letters, and at least one.
pub(super) fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (wrong.chars().count() / 3).clamp(1, 4);
    known
        .into_iter()
        .filter_map(|name| distance(&wrong.to_lowercase(), &name.to_lowercase(), limit).map(|d| (d, name)))
        .min()
        .map(|(_, name)| name)
}

/// "did you mean NAME?", or the list of all names when it is short and none is near.
pub(super) fn did_you_mean<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    const LISTED: usize = 24;
    let known: Vec<&str> = known.into_iter().collect();
    match nearest(wrong, known.iter().copied()) {
        Some(name) => Some(format!("did you mean {name:?}?")),
        None if known.is_empty() || known.len() > LISTED => None,
        None => Some(format!("known are {}", known.join(", "))),
    }
}

/// The number of letters to insert, delete, replace or swap with a neighbour, if at most `limit`
/// (optimal string alignment distance).
fn distance(a: &str, b: &str, limit: usize) -> Option<usize> {
    const LONGEST: usize = 64;
    let a: Vec<char> = a.chars().take(LONGEST + 1).collect();
    let b: Vec<char> = b.chars().take(LONGEST + 1).collect();
    if a.len().abs_diff(b.len()) > limit || a.len() > LONGEST || b.len() > LONGEST {
        return None;
    }
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &y) in b.iter().enumerate() {
            let replace = last[j] + usize::from(x != y);
            let mut best = replace.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                best = best.min(before[j - 1] + 1);
            }
            row.push(best);
        }
        before = std::mem::replace(&mut last, row);
    }
    last.last().copied().filter(|&d| d <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, expected) in [
            ("ports", "ports", Some(0)),
            ("prots", "ports", Some(1)),
            ("port", "ports", Some(1)),
            ("colect", "collect", Some(1)),
            ("kitten", "sitting", Some(3)),
            ("abc", "xyz", Some(3)),
            ("", "abcd", None),
        ] {
            assert_eq!(distance(a, b, 3), expected, "{a} {b}");
        }
    }

    #[test]
    fn proposes_only_what_is_near() {
        let known = ["name", "collect", "peer", "protocol"];
        assert_eq!(nearest("Protocoll", known), Some("protocol"));
        assert_eq!(nearest("nmae", known), Some("name"));
        assert_eq!(nearest("destination", known), None);
    }
}
