//! The scripted network of the tests (tests/support/front.rs) does what it is told.

#![allow(clippy::unwrap_used, clippy::panic)]

mod support;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

use support::front::{Accident, Front, Script, When};
use support::place::Place;
use support::s3::Op;
use support::scene::{Scene, small};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

/// A service that reads ten bytes and answers, again and again; its front.
fn front() -> Front {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream.unwrap();
                while stream.read_exact(&mut [0; 10]).and_then(|()| stream.write_all(ANSWER)).is_ok() {}
            });
        }
    });
    Front::start(address)
}

fn connect(front: &Front) -> TcpStream {
    let address: SocketAddr = front.endpoint().trim_start_matches("http://").parse().unwrap();
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    stream
}

/// Asks once on a connection of its own: what came, and how it ended, if it did before the answer was complete.
fn ask(front: &Front) -> (Vec<u8>, Option<ErrorKind>) {
    ask_for(front, ANSWER.len())
}

/// The same of an answer that stands still after so many bytes.
fn ask_for(front: &Front, expected: usize) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = connect(front);
    stream.write_all(b"0123456789").unwrap();
    let mut answer = vec![0; ANSWER.len()];
    let mut came = 0;
    let end = loop {
        if came == expected {
            stream.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
        }
        match stream.read(&mut answer[came..]) {
            Ok(0) => break None,
            Ok(size) => came += size,
            // The end of a program that another test has started; a read that has a timeout is never restarted (signal(7)).
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => break Some(error.kind()),
        }
    };
    answer.truncate(came);
    (answer, end)
}

#[test]
fn without_a_script_everything_passes_and_is_counted() {
    let front = front();
    assert_eq!(ask(&front).0, ANSWER);
    assert_eq!((front.connections(), front.bytes()), (1, (10, ANSWER.len() as u64)));
}

#[test]
fn accidents_happen_where_they_were_ordered_once_and_in_order() {
    let front = front();
    let reset = Some(ErrorKind::ConnectionReset);
    front.next(Script::up(When::Bytes(0), Accident::Reset));
    front.next(Script::up(When::Bytes(4), Accident::Cut));
    front.next(Script::down(When::Bytes(0), Accident::Reset));
    front.next(Script::down(When::Bytes(7), Accident::Cut));
    front.next(Script::up(When::Bytes(9), Accident::Stall));
    front.next(Script::down(When::Bytes(3), Accident::Stall));
    assert_eq!(ask(&front), (vec![], reset));
    assert_eq!(front.bytes(), (0, 0));
    assert_eq!(ask(&front).0, b"");
    assert_eq!(front.bytes(), (4, 0));
    assert_eq!(ask(&front), (vec![], reset));
    assert_eq!(front.bytes(), (14, 0));
    assert_eq!(ask(&front), (ANSWER[..7].to_vec(), None));
    assert_eq!(ask_for(&front, 0), (vec![], Some(ErrorKind::WouldBlock)));
    assert_eq!(ask_for(&front, 3), (ANSWER[..3].to_vec(), Some(ErrorKind::WouldBlock)));
    assert_eq!(front.scripts_left(), 0);
    assert_eq!(ask(&front).0, ANSWER);
}

#[test]
fn a_connection_is_closed_right_after_its_first_answer() {
    let front = front();
    front.always(Script::down(When::AnswerEnds, Accident::Cut));
    let mut stream = connect(&front);
    stream.write_all(b"0123456789").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, ANSWER);
    front.heal();
    let mut stream = connect(&front);
    for _ in 0..3 {
        stream.write_all(b"0123456789").unwrap();
        stream.read_exact(&mut answer).unwrap();
    }
}

#[test]
fn latency_delays_and_a_trickle_and_a_bandwidth_slow_down() {
    let front = front();
    let took = |script: Script| {
        front.next(script);
        let began = Instant::now();
        let mut stream = connect(&front);
        stream.set_read_timeout(None).unwrap();
        stream.write_all(b"0123456789").unwrap();
        stream.read_exact(&mut vec![0; ANSWER.len()]).unwrap();
        began.elapsed()
    };
    // Nothing is ever too quick; how slow it may be at most depends on the machine.
    assert!(took(Script::round_trip(Duration::from_millis(60))) >= Duration::from_millis(120));
    assert!(
        took(Script::down(When::Bytes(33), Accident::Trickle(Duration::from_millis(10)))) >= Duration::from_millis(90)
    );
    let mut narrow = Script::default();
    narrow.up.bandwidth = Some(100);
    assert!(took(narrow) >= Duration::from_millis(100));
}

#[test]
fn a_closed_front_refuses_on_the_port_where_it_listens_again_later() {
    let front = front();
    let mut there = connect(&front);
    there.write_all(b"0").unwrap();
    let address = there.peer_addr().unwrap();
    front.close();
    assert_eq!(TcpStream::connect(address).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert!(matches!(there.read(&mut [0]), Ok(0) | Err(_)));
    front.open();
    assert_eq!(ask(&front).0, ANSWER);
}

/// A program that is being started holds, until it is executed, a copy of whatever its parent has open: the listener too.
#[test]
fn a_front_closes_and_opens_while_other_tests_start_programs() {
    let front = front();
    let own = rustix::process::geteuid().as_raw();
    std::thread::scope(|scope| {
        let turns = scope.spawn(|| {
            for _ in 0..500 {
                front.close();
                front.open();
            }
        });
        while !turns.is_finished() {
            // With a user of its own the program is forked, not spawned by the library's short cut.
            let started = [(); 4].map(|()| Command::new("true").uid(own).spawn().unwrap());
            assert!(started.map(|mut program| program.wait().unwrap().success()).iter().all(|well| *well));
        }
    });
    assert_eq!(ask(&front).0, ANSWER);
}

#[test]
fn walden_works_through_it_and_survives_its_accidents() {
    let scene = Scene::new(Place::fronted());
    let name = scene.write(&small(1));
    scene.place.front().next(Script::up(When::Bytes(5000), Accident::Reset));
    scene.place.front().next(Script::down(When::Bytes(0), Accident::Reset));
    scene.push(&name).code(0);
    scene.place.front().next(Script::down(When::Bytes(50_000), Accident::Cut));
    scene.fetch(&name).code(0);
    assert!(scene.fetched().unwrap() == small(1).bytes());
    assert_eq!(scene.place.front().scripts_left(), 0);
    assert!(scene.s3().count(Op::Put) >= 2, "the first put was reset, the second one's reply was lost");
}
