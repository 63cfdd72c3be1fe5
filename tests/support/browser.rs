//! A real browser, without a window: Debian's Chromium. It shows pages at any width, light or dark, and is asked what it
//! laid out.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::Engine as _;
use serde_json::Value;

/// No page takes longer; a browser that does hangs, and fails its test.
const DEADLINE: Duration = Duration::from_secs(60);

/// As high as any page, so that all of it is laid out at once.
const HIGH: u32 = 16_000;

/// A page at a width.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    pub page: &'a Path,
    pub width: u32,
    pub dark: bool,
}

/// What the browser says of a page.
#[derive(Debug)]
pub struct Seen {
    /// What `probe.js` has measured.
    pub measured: Value,
    /// What the page's console was told.
    pub console: Vec<String>,
}

impl View<'_> {
    /// Shows the page and measures it. It is looked at through a frame, for the page itself lets no script run.
    pub fn look(&self) -> Seen {
        let scratch = tempfile::tempdir().unwrap();
        let output = self.browser(scratch.path(), HIGH, &["--dump-dom", "--enable-logging=stderr", "--v=0"]);
        let (dom, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let measured = dom.split_once("<pre id=\"out\">").and_then(|(_, rest)| rest.split_once("</pre>"));
        let measured = measured.unwrap_or_else(|| panic!("nothing was measured\n{dom}\n{log}")).0;
        let json = base64::engine::general_purpose::STANDARD.decode(measured).unwrap();
        let console = log.lines().filter(|line| line.contains("CONSOLE")).map(str::to_owned).collect();
        Seen { measured: serde_json::from_slice(&json).unwrap(), console }
    }

    /// Takes a picture of the uppermost part of the page.
    pub fn picture(&self, high: u32, to: &Path) {
        let scratch = tempfile::tempdir().unwrap();
        self.browser(scratch.path(), high, &["--hide-scrollbars", &format!("--screenshot={}", to.display())]);
        assert!(to.exists(), "no picture was taken");
    }

    fn browser(&self, scratch: &Path, high: u32, arguments: &[&str]) -> std::process::Output {
        let frame = self.frame(scratch, high);
        let mut command = Command::new("chromium");
        command.env("HOME", scratch).current_dir(scratch);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]);
        command.args(["--disable-background-networking", "--disable-component-update", "--disable-sync"]);
        // Nothing is on the network that a page could ask for, and a file may look into a file.
        command.args(["--host-resolver-rules=MAP * ~NOTFOUND", "--allow-file-access-from-files"]);
        // The enumeration of Blink (PreferredColorScheme): 0 is dark.
        command.arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!self.dark)));
        command.arg(format!("--user-data-dir={}", scratch.join("profile").display()));
        command.arg(format!("--window-size={},{high}", self.width)).args(arguments);
        command.arg(format!("file://{}", frame.display()));
        let mut command = assert_cmd::Command::from_std(command);
        command.timeout(DEADLINE).output().expect("chromium must be there: scripts/need chromium")
    }

    fn frame(&self, scratch: &Path, high: u32) -> PathBuf {
        let frame = scratch.join("frame.html");
        let (page, width) = (self.page.display(), self.width);
        let probe = include_str!("probe.js");
        let html = format!(
            "<!doctype html><meta charset=utf-8><style>body {{ margin: 0 }} iframe {{ border: 0; display: block }}</style>\
             <iframe id=frame src='file://{page}' width={width} height={high}></iframe><pre id=out></pre>\
             <script>{probe}</script>"
        );
        std::fs::write(&frame, html).unwrap();
        frame
    }
}
