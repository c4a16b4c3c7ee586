//! `--network=private`: others can be reached, this machine's loopback can't.

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{Need, Project, Rbuild, User, each_user, needs, skip};

/// Serves a greeting on a port of an address, for as long as the tests run.
fn greeter(address: IpAddr) -> u16 {
    let listener = TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let _ = connection.map(|mut connection| connection.write_all(b"greetings\n"));
        }
    });
    port
}

/// Whether a user may make the device that everything goes through.
fn may_make_devices(user: &User) -> bool {
    let mut command = user.command("sh");
    command.args(["-c", ": 2>/dev/null <>/dev/net/tun"]);
    command.status().unwrap().success()
}

/// An address of this machine that isn't loopback's.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(192, 0, 2, 200), 9)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

/// rbuild with none but one of the programs that make networks on its path.
fn with_program(user: &User, name: &str) -> Rbuild {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let rbuild = Rbuild::new(user);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let folder = rbuild.out().join(format!("path-{number}"));
    std::fs::create_dir(&folder).unwrap();
    for program in [name, "newuidmap", "newgidmap"] {
        let found = ["/usr/bin", "/bin", "/usr/sbin"].map(|place| Path::new(place).join(program));
        if let Some(found) = found.iter().find(|path| path.is_file()) {
            std::os::unix::fs::symlink(found, folder.join(program)).unwrap();
        }
    }
    rbuild.env("PATH", &folder)
}

#[test]
fn a_step_reaches_others_and_not_this_machines_loopback() {
    const PROGRAMS: [&str; 2] = ["pasta", "slirp4netns"];
    let programs = PROGRAMS.map(Need::Program);
    if !needs(&[Need::BaseImages, programs[0], programs[1]]) {
        return;
    }
    let Some(own) = own_address() else {
        skip("this machine has no address but loopback's");
        return;
    };
    let local = greeter(Ipv4Addr::LOCALHOST.into());
    let public = greeter(Ipv4Addr::UNSPECIFIED.into());
    let project = Project::with(&format!(
        "
        FROM busybox
        ARG PROGRAM
        RUN ip -o -4 addr show lo | grep -c 127.0.0.1; ip -4 route | grep -c ^default
        RUN for host in 127.0.0.1 $(ip -4 route | grep ^default | cut -d ' ' -f 3); do \
            nc -w 2 $host {local} </dev/null 2>/dev/null | grep . && echo reached $host; done; echo tried
        RUN nc -w 5 {own} {public} </dev/null 2>/dev/null || echo refused
        RUN grep -c nameserver /etc/resolv.conf; grep nameserver /etc/resolv.conf
        RUN --network=none ip -4 route | wc -l
        USER app
        RUN id -un
        "
    ));
    each_user(|user| {
        if !may_make_devices(user) {
            skip("a user may not open /dev/net/tun: `chmod 666 /dev/net/tun`, as udev has it");
            return;
        }
        for program in PROGRAMS {
            let rbuild = with_program(user, program);
            let build = rbuild.build(&project).args(["--network", "private"]);
            let log = build.build_arg(&format!("PROGRAM={program}")).ok();
            // `pasta` gives the step this machine's own address.
            let (reached, server) = match program {
                "pasta" => ("refused", "nameserver 169.254.1.1"),
                _ => ("greetings", "nameserver 10.0.2.3"),
            };
            let expected = ["1", "1", "tried", reached, "1", server, "0", "app"];
            assert_eq!(
                log.output(),
                expected,
                "{program} as {user:?}\n{}",
                log.stderr
            );
        }
    });
}

#[test]
fn without_a_program_for_it_the_packages_are_named() {
    if !needs(&[Need::BaseImages]) {
        return;
    }
    let project = Project::with("FROM busybox\nRUN true\n");
    each_user(|user| {
        let rbuild = with_program(user, "true");
        let log = rbuild.build(&project).args(["--network=private"]).fails();
        log.says(&[
            "a private network needs the program `pasta` or `slirp4netns`",
            "install the package `passt` or `slirp4netns`",
            "Dockerfile:2",
        ]);
        // As in BuildKit, only the caller lets a Dockerfile out of it.
        let host = Project::with("FROM busybox\nRUN --network=host true\n");
        let log = rbuild.build(&host).args(["--network=private"]).fails();
        log.says(&["network.host is not allowed"]);
        let gateway = ["--network=private", "--add-host", "db:host-gateway"];
        let log = rbuild.build(&project).args(gateway).fails();
        log.says(&["`--add-host db:host-gateway` leads nowhere with `--network=private`"]);
    });
}
