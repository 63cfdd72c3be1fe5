//! The page: one file, without a script, that asks for nothing from anywhere, and says so to the browser.
//!
//! All text goes through the escapes of `maud`. What others have written (labels, notes, names, what servers and stores
//! answer) goes through `text::foreign` before.

mod backups;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use sha2::{Digest, Sha256};

use super::chart;
use super::drawing::{self, Shape};
use super::text::{ago, bytes, foreign, machine, second, span};
use super::{Archiving, Cluster, Line, Page, Retention, State, Taken};
use crate::layout::BackupId;
use crate::observe::counted;

const STYLE: &str = include_str!("style.css");

/// So many rows of anything else; the verbs that are named beside it print all of them.
const ROWS: usize = 30;

/// An archive that is older than this gets a second time line, of its last days.
const LONG: SignedDuration = SignedDuration::from_hours(24 * 21);
const LAST_DAYS: SignedDuration = SignedDuration::from_hours(24 * 7);

/// The page as HTML.
pub fn html(page: &Page) -> String {
    let title = format!("Walden: {} is {}", foreign(&page.archive), page.verdict);
    let markup = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy());
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="color-scheme" content="light dark";
                meta name="referrer" content="no-referrer";
                meta name="generator" content={ "walden " (page.walden) };
                title { (title) }
                style { (PreEscaped(STYLE)) }
            }
            body {
                (head(page))
                main {
                    (verdict(page))
                    @for cluster in &page.clusters { (self::cluster(cluster, page)) }
                    (unseen(page))
                }
                (foot(page))
            }
        }
    };
    markup.into_string()
}

/// Nothing may be fetched and no script may run, whatever a label says. The one style is known by its digest (Content
/// Security Policy Level 3, "hash-source").
fn policy() -> String {
    let digest = STANDARD.encode(Sha256::digest(STYLE));
    format!("default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'")
}

fn head(page: &Page) -> Markup {
    html! {
        header {
            h1 { "Archive report" }
            p.meta {
                "Of " span.code { bdi { (foreign(&page.archive)) } } ", made " (time(page.made)) " UTC by walden "
                (page.walden) ". All times are UTC."
            }
        }
    }
}

fn time(time: Timestamp) -> Markup {
    html! { time datetime=(machine(time)) { (second(time)) } }
}

fn verdict(page: &Page) -> Markup {
    html! {
        section.verdict.(page.verdict.to_lowercase()) aria-label="Health" {
            h2 { span.badge { (page.verdict) } @if page.findings.is_empty() { " Nothing is wrong." } @else { ", " (counted(page.findings.len() as u64, "finding")) } }
            @if !page.findings.is_empty() {
                ul {
                    @for finding in page.findings.iter().take(ROWS) {
                        li { strong.(finding.level.to_lowercase()) { (finding.level) } " " bdi { (foreign(&finding.what)) } }
                    }
                    (more(page.findings.len(), ROWS, "walden status"))
                }
            }
        }
    }
}

/// What is left out, and where it is.
fn more(all: usize, shown: usize, command: &str) -> Markup {
    html! {
        @if all > shown { li.more { (all - shown) " more: " span.code { (command) } } }
    }
}

fn cluster(cluster: &Cluster, page: &Page) -> Markup {
    let name = cluster.system_id.map_or("of unknown identifier".to_owned(), |system| system.to_string());
    html! {
        section.cluster aria-label={ "Cluster " (name) } {
            h2 { "Cluster " span.code { (name) } }
            @if cluster.archived {
                (reach(cluster, page.made))
                (figures(cluster, page.made))
            } @else if page.unseen_archive.is_none() {
                p { "Nothing of this cluster is in the archive." }
            }
            @if let Some(archiving) = &cluster.archiving { (self::archiving(archiving, page.made)) }
            @if cluster.archived {
                (window(cluster, page.made))
                (backups::backups(cluster))
                (details(cluster))
            }
        }
    }
}

/// The sentence that matters at night.
fn reach(cluster: &Cluster, now: Timestamp) -> Markup {
    let latest = cluster.recoverable.iter().find(|line| line.latest);
    html! {
        @match latest.and_then(|line| Some((line, line.windows.last()?))) {
            Some((line, window)) => p.reach {
                "A recovery can stop at any time from " strong { (time(window.start_time)) } " to "
                @if let Some(end) = window.end_time {
                    strong { (time(end)) } ", " (ago(end, now)) " before this report"
                } @else { strong { (window.end) } }
                @if line.broken { "; after that WAL is missing" }
                @if line.windows.len() > 1 { "; earlier there are gaps" }
                "."
            },
            None => p.reach.bad { "Nothing can be recovered to the latest timeline." },
        }
    }
}

fn figures(cluster: &Cluster, now: Timestamp) -> Markup {
    let complete: Vec<&Taken> = cluster.backups.iter().filter_map(|listed| listed.taken.as_ref()).collect();
    let good = cluster.last_good_backup.and_then(|id| taken(cluster, id));
    let stored: u64 = complete.iter().map(|taken| taken.stored_size).sum();
    let wal: u64 = cluster.timelines.iter().map(|branch| branch.stored_size).sum();
    let segments: u64 = cluster.timelines.iter().map(|branch| branch.segments).sum();
    let incomplete = cluster.backups.iter().filter(|listed| listed.state == State::Incomplete).count();
    let figure = |name: &str, value: String, more: String| {
        html! { div { dt { (name) } dd { strong { (value) } @if !more.is_empty() { " " small { (more) } } } } }
    };
    html! {
        dl.figures {
            @match &cluster.last_segment {
                Some(last) => (figure("Last WAL", format!("{} ago", ago(last.stored, now)), last.name.to_string())),
                None => (figure("Last WAL", "none".into(), String::new())),
            }
            @match good {
                Some(good) => (figure(
                    "Last good backup",
                    format!("{} ago", ago(good.finished, now)),
                    format!("took {}", span(good.seconds)),
                )),
                None => (figure("Last good backup", "none".into(), String::new())),
            }
            (figure(
                "Backups",
                format!("{} complete", complete.len()),
                if incomplete == 0 { String::new() } else { format!("{incomplete} incomplete") },
            ))
            (figure("Stored", bytes(stored + wal), format!(
                "{} in backups, {} in {} WAL segments that they can need",
                bytes(stored), bytes(wal), segments,
            )))
            @if let Some(good) = good {
                (figure("Cluster", bytes(good.plain_size), format!("PostgreSQL {}", good.postgres)))
            }
            @if let Some(last) = &cluster.retention {
                (figure("Last retention", format!("{} ago", ago(last.finished.unwrap_or(last.begun), now)), deleted(last)))
            }
            @if let Some(last) = &cluster.verified {
                (figure("Last verified here", format!("{} ago", ago(last.when, now)), match (&last.failure, last.deep) {
                    (Some(failure), _) => foreign(failure),
                    (None, true) => "with the content of the segments; nothing was wrong".into(),
                    (None, false) => "names alone; nothing was wrong".into(),
                }))
            }
        }
    }
}

fn deleted(last: &Retention) -> String {
    let what = match (&last.failure, last.finished) {
        (Some(failure), _) => foreign(failure),
        (None, None) => "under way".to_owned(),
        (None, Some(_)) => format!(
            "deleted {} and {} WAL files, {}; {} stay",
            counted(last.backups as u64, "backup"),
            last.wal_files,
            bytes(last.bytes),
            counted(last.kept, "backup"),
        ),
    };
    format!("{}: {what}", foreign(&last.command))
}

fn taken(cluster: &Cluster, id: BackupId) -> Option<&Taken> {
    cluster.backups.iter().find(|listed| listed.id == id)?.taken.as_ref()
}

fn archiving(archiving: &Archiving, now: Timestamp) -> Markup {
    html! {
        section aria-label="The server" {
            h3 { "The server" }
            ul {
                @if let Some(why) = &archiving.off { li { strong.critical { "Archives nothing" } ": " (foreign(why)) } }
                @match archiving.waiting_files {
                    Some(0) => li { "No WAL waits to be archived." },
                    Some(files) => li {
                        (counted(files, "WAL file")) " of " (bytes(archiving.waiting_bytes.unwrap_or(0)))
                        " wait to be archived"
                        @if let Some(since) = archiving.waiting_since { ", the oldest for " (ago(since, now)) }
                        "."
                    },
                    None => li { "What waits to be archived was not seen." },
                }
                @if let Some(file) = &archiving.failing {
                    li {
                        strong.critical { "Fails: " span.code { (foreign(file)) } }
                        @if let Some(since) = archiving.failing_since { " for " (ago(since, now)) }
                        @if let Some(reason) = &archiving.reason { ": " bdi { (foreign(reason)) } }
                    }
                }
            }
        }
    }
}

fn window(cluster: &Cluster, now: Timestamp) -> Markup {
    let Some(first) = drawing::first(cluster) else { return html! {} };
    let long = now.duration_since(first) > LONG;
    html! {
        section aria-label="Where recoveries can stop" {
            h3 { "Where recoveries can stop" }
            @if long {
                h4 { "The last 7 days" }
                (time_line(cluster, now - LAST_DAYS, now, 0))
                h4 { "All" }
            }
            (time_line(cluster, first, now, drawing::older(cluster)))
            (legend())
            (stretches(cluster))
            (gaps(cluster))
            @if cluster.timelines.len() > 1 || !cluster.missing_histories.is_empty() { (forks(cluster)) }
        }
    }
}

fn time_line(cluster: &Cluster, from: Timestamp, to: Timestamp, older: usize) -> Markup {
    let drawing = drawing::draw(cluster, from, to);
    let hidden = drawing.hidden.max(older);
    let title =
        format!("Time line from {} to {} UTC; the tables below say the same", second(drawing.from), second(drawing.to));
    html! {
        figure {
            (chart::time_line(&drawing, &title))
            @if hidden > 0 {
                figcaption { (counted(hidden as u64, "older timeline")) " not drawn; they are in the table below." }
            }
        }
    }
}

fn legend() -> Markup {
    let all = [
        (Shape::Good, "good backup"),
        (Shape::Kept, "kept for good"),
        (Shape::Incomplete, "being taken, or failed"),
        (Shape::Damaged, "has damaged pages"),
        (Shape::Lost, "cannot be restored"),
    ];
    html! {
        ul.legend aria-label="Legend" {
            li { svg width="26" height="18" aria-hidden="true" { rect.window x="1" y="3" width="24" height="12" rx="3" {} } "recoverable" }
            li { svg width="26" height="18" aria-hidden="true" { rect.hole x="1" y="3" width="24" height="12" rx="3" {} } "WAL missing" }
            @for (shape, words) in all {
                li {
                    svg width="20" height="18" aria-hidden="true" { svg x="10" y="9" overflow="visible" { (chart::shape(shape)) } }
                    (words)
                }
            }
            li { "A number below: so many in one place" }
        }
    }
}

fn stretches(cluster: &Cluster) -> Markup {
    let rows: Vec<(&Line, usize)> = cluster
        .recoverable
        .iter()
        .rev()
        .flat_map(|line| (0..line.windows.len().max(1)).rev().map(move |index| (line, index)))
        .collect();
    html! {
        table {
            caption { "Recoverable, newest first" }
            (header(&["Along timeline", "From", "To", "LSN"]))
            tbody {
                @for (line, index) in rows.iter().take(ROWS) {
                    tr {
                        td data-label="Along timeline" { (line.timeline.0) @if line.latest { " (latest)" } }
                        @match line.windows.get(*index) {
                            Some(window) => {
                                td data-label="From" { (time(window.start_time)) }
                                td data-label="To" { @match window.end_time { Some(end) => (time(end)), None => "unknown" } }
                                td.code data-label="LSN" { (window.start) " to " (window.end) }
                            },
                            None => td.bad colspan="3" { "Nowhere: WAL is missing" },
                        }
                    }
                }
            }
        }
        (below(rows.len(), "walden status --json"))
    }
}

fn header(names: &[&str]) -> Markup {
    html! { thead { tr { @for name in names { th scope="col" { (name) } } } } }
}

/// What a table leaves out.
fn below(all: usize, command: &str) -> Markup {
    html! { @if all > ROWS { p.more { (all - ROWS) " more: " span.code { (command) } } } }
}

fn gaps(cluster: &Cluster) -> Markup {
    let mut gaps: Vec<_> = cluster.recoverable.iter().flat_map(|line| &line.gaps).collect();
    gaps.sort_by_key(|gap| (gap.timeline, &gap.what));
    gaps.dedup_by_key(|gap| (gap.timeline, &gap.what));
    html! {
        @if !gaps.is_empty() {
            table {
                caption { "Missing WAL" }
                (header(&["On timeline", "Segments", "Count"]))
                tbody {
                    @for gap in gaps.iter().take(ROWS) {
                        tr {
                            td data-label="On timeline" { (gap.timeline.0) }
                            td.code data-label="Segments" { (gap.what) }
                            td.number data-label="Count" { (gap.segments) }
                        }
                    }
                }
            }
            (below(gaps.len(), "walden wal-verify --json"))
        }
    }
}

fn forks(cluster: &Cluster) -> Markup {
    html! {
        table {
            caption { "Timelines, newest first" }
            (header(&["Timeline", "Left", "Began", "WAL that backups can need"]))
            tbody {
                @for branch in cluster.timelines.iter().rev().take(ROWS) {
                    tr {
                        td data-label="Timeline" { (branch.timeline.0) }
                        td data-label="Left" {
                            @match (branch.parent, branch.left_at) {
                                (Some(parent), Some(at)) => {
                                    (parent.0) " at " span.code { (at) }
                                    @if let Some(reason) = &branch.reason { ": " bdi { (foreign(reason)) } }
                                },
                                _ if cluster.missing_histories.contains(&branch.timeline) => {
                                    strong.critical { "its history file is missing" }
                                },
                                _ => "none: it is the first",
                            }
                        }
                        td data-label="Began" { @if let Some(when) = branch.promoted { (time(when)) } }
                        td data-label="Needed WAL" { (branch.segments) " segments, " (bytes(branch.stored_size)) }
                    }
                }
            }
        }
        (below(cluster.timelines.len(), "walden wal-show"))
    }
}

fn details(cluster: &Cluster) -> Markup {
    html! {
        @if !cluster.damaged.is_empty() {
            section aria-label="Damaged objects" {
                h3 { "Damaged objects" }
                ul {
                    @for [name, detail] in cluster.damaged.iter().take(ROWS) {
                        li { span.code { bdi { (foreign(name)) } } ": " bdi { (foreign(detail)) } }
                    }
                    (more(cluster.damaged.len(), ROWS, "walden wal-verify --json"))
                }
            }
        }
        @if !cluster.skipped.is_empty() {
            section aria-label="Not looked at" {
                h3 { "Not looked at" }
                ul {
                    @for what in cluster.skipped.iter().take(ROWS) { li { bdi { (foreign(what)) } } }
                    (more(cluster.skipped.len(), ROWS, "walden wal-verify --json"))
                }
            }
        }
    }
}

fn unseen(page: &Page) -> Markup {
    let archive = page.unseen_archive.iter().map(|why| format!("the archive: {why}"));
    let all: Vec<String> = archive.chain(page.not_seen.iter().cloned()).collect();
    html! {
        @if !all.is_empty() {
            section.unseen aria-label="Not seen" {
                h2 { "Not seen" }
                ul {
                    @for what in all.iter().take(ROWS) { li { bdi { (foreign(what)) } } }
                    (more(all.len(), ROWS, "walden status"))
                }
            }
        }
    }
}

fn foot(page: &Page) -> Markup {
    html! {
        footer {
            p {
                "Recoverable stretches begin when a backup ended, by the clock of the server, and end when their last "
                "segment was stored, by the clock of the store: what was committed later is certainly not in them. A "
                "copied archive has the times of its copying."
            }
            @if let Some(who) = &page.asked_as {
                p {
                    "The store was asked as " span.code { bdi { (foreign(who)) } }
                    @if let Some(end) = page.credentials_end { ", until " (time(end)) }
                    "."
                }
            }
            p { "walden " (page.walden) ". This page holds no script and asks for nothing from any network." }
        }
    }
}
