//! Where in the folder does a record belong?

use std::path::{Path, PathBuf};

use super::stats::Table;

const HOUR_US: u64 = 3_600_000_000;

/// An hour, counted from the epoch: the partition of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Hour(pub(crate) u64);

impl Hour {
    pub(crate) fn of(time_us: u64) -> Self {
        Self(time_us / HOUR_US)
    }

    /// When it ends, microseconds since the epoch.
    pub(crate) fn end_us(self) -> u64 {
        self.0.saturating_add(1).saturating_mul(HOUR_US)
    }

    /// `table=flows/date=2023-11-14/hour=22`.
    pub(crate) fn folder(self, table: Table) -> PathBuf {
        let (year, month, day) = civil(self.0 / 24);
        PathBuf::from(format!(
            "table={}/date={year:04}-{month:02}-{day:02}/hour={:02}",
            table.name(),
            self.0 % 24
        ))
    }

    /// The hour of a folder's names, if they are those of [`Self::folder`].
    pub(crate) fn parse(date: &str, hour: &str) -> Option<Self> {
        let mut numbers = date.strip_prefix("date=")?.splitn(3, '-').map(str::parse::<u64>);
        let (year, month, day) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        let hour: u64 = hour.strip_prefix("hour=")?.parse().ok()?;
        if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || hour > 23 {
            return None;
        }
        let days = days(year, month, day);
        (civil(days) == (year, month, day)).then(|| Self(days * 24 + hour))
    }
}

/// Year, month and day of a day since the epoch (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

/// The day since the epoch of a date of 1970 or later; the opposite of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day.saturating_sub(1);
    (era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year)
        .saturating_sub(719_468)
}

/// The hidden name that a file has until it is whole: the same folder, so that the rename is one step.
pub(crate) fn hidden(target: &Path) -> PathBuf {
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    target.with_file_name(format!(".{name}{HIDDEN_END}"))
}

/// The end of hidden names.
pub(crate) const HIDDEN_END: &str = ".tmp";
/// The end of the names of whole files.
pub(crate) const WHOLE_END: &str = ".parquet";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_has_a_folder() {
        let hour = Hour::of(1_700_000_000_000_000);
        assert_eq!(hour.folder(Table::Flows), Path::new("table=flows/date=2023-11-14/hour=22"));
        assert_eq!(Hour::of(0).folder(Table::Counters), Path::new("table=counters/date=1970-01-01/hour=00"));
        // 29 February 2024, 23:59:59.999999 UTC.
        let leap = Hour::of(1_709_251_199_999_999);
        assert_eq!(leap.folder(Table::Metrics1m), Path::new("table=metrics_1m/date=2024-02-29/hour=23"));
        assert_eq!(leap.end_us(), 1_709_251_200_000_000);
    }

    #[test]
    fn folders_read_back() {
        for hour in (0..2_000_000).step_by(7).map(Hour) {
            let folder = hour.folder(Table::Flows);
            let names: Vec<_> = folder.iter().map(|name| name.to_str().unwrap()).collect();
            assert_eq!(Hour::parse(names[1], names[2]), Some(hour));
        }
        for (date, hour) in [
            ("date=2023-02-29", "hour=00"),
            ("date=2023-13-01", "hour=00"),
            ("date=2023-01-00", "hour=00"),
            ("date=1969-12-31", "hour=00"),
            ("date=2023-01-01", "hour=24"),
            ("2023-01-01", "hour=01"),
            ("date=2023-01", "hour=01"),
        ] {
            assert_eq!(Hour::parse(date, hour), None, "{date} {hour}");
        }
    }

    #[test]
    fn a_hidden_name_begins_with_a_dot() {
        assert_eq!(hidden(Path::new("a/b.parquet")), Path::new("a/.b.parquet.tmp"));
    }
}
