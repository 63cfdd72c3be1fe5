#![allow(clippy::unwrap_used, clippy::panic, clippy::expect_used)]
mod support;
use support::cluster::*;
use support::load::*;
use support::place::*;
#[test]
fn x() {
    for pg in Postgres::each() {
        let place = Place::directory();
        let mut c = Cluster::empty(&pg, &place);
        let _ = &mut c;
        let mut p = Cluster::primary(&pg, &place);
        p.configure("archive_command='true'\n");
        p.stop();
        p.start();
        open_books(&p);
        let l = Load::start(&p);
        std::thread::sleep(std::time::Duration::from_secs(1));
        let n = l.stop();
        assert_eq!(audit(&p), n);
        println!("{} {n}", pg.major);
        p.archive_all();
        p.check_pages();
        p.kill();
        p.start();
        assert_eq!(audit(&p), n);
    }
}
