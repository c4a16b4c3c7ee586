//! The network of a program that runs: the machine's, none, or published ports of its own.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use rustix::process::Signal;

use super::{Started, run, with_image};
use crate::support::{Need, each_user, eventually, needs};

#[test]
fn the_network_is_the_machine_s_or_none() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    each_user(|user| {
        let rbuild = with_image(user, "FROM busybox\n");
        let connect = ["app", "nc", "-w1", "127.0.0.1", &port, "-e", "true"];
        run(&rbuild, &connect).ok();
        run(&rbuild, &[&["--network=host"], &connect[..]].concat()).ok();
        run(&rbuild, &[&["--network=none"], &connect[..]].concat()).fails();
    });
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// The body that a web server on this port gives, once it is there.
fn fetch(port: u16) -> String {
    let mut answer = String::new();
    eventually("no answer", || {
        answer.clear();
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else {
            return false;
        };
        let asked = stream.write_all(b"GET /index.html HTTP/1.0\r\n\r\n");
        asked.is_ok() && stream.read_to_string(&mut answer).is_ok() && answer.contains("\r\n\r\n")
    });
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[test]
fn a_published_port_leads_to_the_program_s() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    each_user(|user| {
        let rbuild = with_image(
            user,
            "
            FROM busybox
            RUN mkdir /www && echo page >/www/index.html
            ",
        );
        let (inside, outside) = (free_port(), free_port());
        let mut command = rbuild.command();
        command.args(["run", "-p", &format!("{outside}:{inside}")]);
        command.args([
            "-p",
            &format!("{inside}"),
            "-p",
            &format!("{inside}:{inside}"),
        ]);
        command.args([
            "app",
            "httpd",
            "-f",
            "-h",
            "/www",
            "-p",
            &inside.to_string(),
        ]);
        let mut server = Started::new(command);
        let mut stderr = server.0.stderr.take().unwrap();
        assert_eq!(fetch(inside), "page\n");
        assert_eq!(fetch(outside), "page\n");
        server.signal(Signal::TERM);
        assert_eq!(server.code(), Some(143));
        let mut said = String::new();
        stderr.read_to_string(&mut said).unwrap();
        let picked = said.strip_prefix(&format!("note: port {inside} of the program is port "));
        assert!(
            picked.is_some_and(|rest| rest.ends_with(" of this machine\n")),
            "{said}"
        );
        // Nobody listens any more.
        assert!(TcpStream::connect(("127.0.0.1", outside)).is_err());
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let refused = run(
            &rbuild,
            &["-p", &format!("127.0.0.1:{port}:1"), "app", "true"],
        );
        assert_eq!(refused.status.code(), Some(125));
        refused.says(&["can't listen on", "ddress already in use"]);
    });
}
