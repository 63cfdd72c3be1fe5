//! The steps that stories on real servers are told with.

use super::cluster::{Cluster, Postgres};
use super::place::Place;
use super::walden::Ran;

/// Tells the story on each version and each kind of place.
pub fn each(story: impl Fn(&Postgres, &Place)) {
    for postgres in Postgres::each() {
        for place in Place::each() {
            println!("-- PostgreSQL {} with {place:?}", postgres.major);
            story(&postgres, &place);
        }
    }
}

/// Tells a long story on each version, and on each kind of place in turn.
pub fn in_turn(mut story: impl FnMut(&Postgres, &Place)) {
    for (number, postgres) in Postgres::each().iter().enumerate() {
        let place = if number % 2 == 0 { Place::directory() } else { Place::s3() };
        println!("-- PostgreSQL {} with {place:?}", postgres.major);
        story(postgres, &place);
    }
}

pub fn back_up(primary: &Cluster) -> Ran {
    primary.walden(&["backup-push", primary.data().to_str().unwrap()]).run().code(0)
}

pub fn complete_backups(cluster: &Cluster) -> usize {
    let listed = cluster.walden(&["backup-list", "--json"]).run().code(0).json();
    listed.as_array().unwrap().iter().filter(|backup| backup["state"] == "complete").count()
}

/// A cluster restored into a directory of its own, its server not started.
pub fn restored(postgres: &Postgres, place: &Place, options: &[&str]) -> Cluster {
    let cluster = Cluster::empty(postgres, place);
    restore(&cluster, options).code(0);
    cluster
}

pub fn restore(cluster: &Cluster, options: &[&str]) -> Ran {
    let data = cluster.data();
    cluster.walden(&[&["backup-fetch", data.to_str().unwrap()], options].concat()).run()
}

pub fn started(mut cluster: Cluster) -> Cluster {
    cluster.start();
    cluster
}

/// A copy for inspection, recovered to its end. It must not archive beside its original: its promotion would be the
/// newest timeline there, and the next restore would follow it.
pub fn recovered(cluster: Cluster) -> Cluster {
    cluster.configure("archive_mode = off\n");
    let cluster = started(cluster);
    wait_for_promotion(&cluster);
    cluster
}

pub fn wait_for_promotion(cluster: &Cluster) {
    cluster.wait_until("recovery ends", |cluster| !cluster.is_in_recovery());
}
