//! The backups on the page: bars of the last ones, and a row for each.

use maud::{Markup, html};

use super::{ROWS, header, time};
use crate::observe::counted;
use crate::report::chart::{self, Value};
use crate::report::drawing::Shape;
use crate::report::text::{about, bytes, clock, foreign, minute, second};
use crate::report::{Cluster, Listed, Taken};

/// So many of the last backups have bars and rows.
const LAST: usize = 30;

/// So many notes of a backup.
const NOTES: usize = 10;

pub(super) fn backups(cluster: &Cluster) -> Markup {
    let last = &cluster.backups[cluster.backups.len().saturating_sub(LAST)..];
    let older = &cluster.backups[..cluster.backups.len() - last.len()];
    let special: Vec<&Listed> =
        older.iter().rev().filter(|listed| Shape::of(listed) != Shape::Good).take(ROWS).collect();
    html! {
        section aria-label="Backups" {
            h3 { "Backups" }
            @if last.is_empty() { p.bad { "There is no backup." } } @else {
                (charts(last))
                (table(last.iter().rev(), &format!("The last {}, newest first", counted(last.len() as u64, "backup"))))
                @if !special.is_empty() { (table(special.iter().copied(), "Older ones that are kept, or are not well")) }
                @if older.len() > special.len() {
                    p.more { (counted((older.len() - special.len()) as u64, "older backup")) " not listed: " span.code { "walden backup-list" } }
                }
            }
        }
    }
}

/// Who takes a number out of a backup, and how it is said.
type Measure = (&'static str, fn(&Taken) -> Option<f64>, fn(f64) -> String);

fn charts(last: &[Listed]) -> Markup {
    let measures: [Measure; 4] = [
        ("Stored size", |taken| Some(taken.stored_size as f64), about),
        ("Duration", |taken| Some(taken.seconds), clock),
        ("Rate of the backup", |taken| taken.bytes_per_second, |rate| format!("{}/s", about(rate))),
        ("WAL written, on average", |taken| taken.wal_per_hour, |rate| format!("{}/h", about(rate))),
    ];
    let complete: Vec<(&Listed, &Taken)> = last.iter().filter_map(|one| Some((one, one.taken.as_ref()?))).collect();
    let ends = complete.first().zip(complete.last()).map(|((_, first), (_, last))| (first.finished, last.finished));
    let Some((first, end)) = ends else { return html! {} };
    let (first, end) = (minute(first)[..10].to_owned(), minute(end)[..10].to_owned());
    html! {
        div.charts {
            @for (name, measure, say) in measures {
                @let values: Vec<Option<f64>> = complete.iter().map(|(_, taken)| measure(taken)).collect();
                @if let Some(most) = values.iter().flatten().copied().reduce(f64::max) {
                    figure {
                        figcaption { (name) }
                        (chart::bars(name, &titled(&complete, &values, say), &say(most), (&first, &end)))
                    }
                }
            }
        }
    }
}

fn titled(backups: &[(&Listed, &Taken)], values: &[Option<f64>], say: fn(f64) -> String) -> Vec<Value> {
    let value = |((_, taken), value): (&(&Listed, &Taken), &Option<f64>)| Value {
        value: *value,
        title: format!("{}: {}", second(taken.finished), value.map_or("unknown".to_owned(), say)),
    };
    backups.iter().zip(values).map(value).collect()
}

fn table<'a>(backups: impl Iterator<Item = &'a Listed>, caption: &str) -> Markup {
    html! {
        table.backups {
            caption { (caption) }
            (header(&["Backup", "State", "Finished", "Took", "Cluster", "Stored", "Rate", "Timeline"]))
            tbody { @for listed in backups { (row(listed)) } }
        }
    }
}

fn row(listed: &Listed) -> Markup {
    let shape = Shape::of(listed);
    html! {
        tr {
            td.wide.plain data-label="Backup" {
                div.code { (listed.id) }
                @if let Some(taken) = &listed.taken { (marks(taken)) }
            }
            td.wide.plain data-label="State" {
                span.state { svg width="20" height="18" aria-hidden="true" { svg x="10" y="9" overflow="visible" { (chart::shape(shape)) } }
                span.bad[shape > Shape::Incomplete] { (shape.word()) } }
                @if let Some(why) = &listed.why { ": " bdi { (foreign(why)) } }
            }
            @match &listed.taken {
                Some(taken) => {
                    td.wide data-label="Finished" { (time(taken.finished)) }
                    td.number data-label="Took" { (clock(taken.seconds)) }
                    td.number data-label="Cluster" { (bytes(taken.plain_size)) }
                    td.number data-label="Stored" { (bytes(taken.stored_size)) }
                    td.number data-label="Rate" {
                        @if let Some(rate) = taken.bytes_per_second { (about(rate)) "/s" } @else { "unknown" }
                    }
                    td.number data-label="Timeline" { (listed.timeline.0) }
                },
                None => {
                    td.wide.plain data-label="Began" colspan="5" { "began " (time(listed.started)) }
                    td.number data-label="Timeline" { (listed.timeline.0) }
                },
            }
        }
    }
}

fn marks(taken: &Taken) -> Markup {
    html! {
        div.marks {
            @if let Some(label) = &taken.label { bdi { (foreign(label)) } }
            @for (key, value) in taken.notes.iter().take(NOTES) {
                " " span.note { bdi { (foreign(key)) } "=" bdi { (foreign(value)) } }
            }
            @if taken.notes.len() > NOTES { " and " (counted((taken.notes.len() - NOTES) as u64, "more note")) }
        }
    }
}
