//! A user without subordinate ids: one id of the machine stands for all of an image's. Steps see and
//! change owners all the same, and images have them.

use crate::support::{Need, Project, Rbuild, User, needs};

fn is_possible() -> bool {
    needs(&[Need::Root, Need::BaseImages, Need::Sandbox])
}

/// Builds as a user whom nobody lends ids, and gives what the steps printed.
fn prints(dockerfile: &str, expected: &[&str]) {
    if !is_possible() {
        return;
    }
    let log = Rbuild::new(&User::stranger())
        .build(&Project::with(dockerfile))
        .ok();
    assert_eq!(log.output(), expected, "{}", log.stderr);
}

#[test]
fn owners_are_shown_as_they_were_given() {
    prints(
        "
        FROM busybox
        RUN stat -c '%u:%g' /home/app && touch /a /b && chown 12:34 /a && chown :7 /b \\
         && stat -c '%n %u:%g' /a /b && ln -s a /l && chown -h 5:6 /l && stat -c '%n %u:%g' /l \\
         && mkfifo /p && chown 8:9 /p && mv /l /moved && mv /p /pipe
        RUN stat -c '%n %u:%g' /a /b /moved /pipe && ln /a /hard && chown 1:1 /hard && stat -c %u /a \\
         && cp -a /a /copy && cp -a /moved /link && chown -R 4294967294:3 /home
        RUN stat -c '%n %u:%g' /copy /link /home/app && mv /moved /again && cat /etc/apt/x 2>&1 | wc -l
        RUN stat -c '%n %u:%g' /again /pipe
        ",
        &[
            "1000:1000", "/a 12:34", "/b 0:7", "/l 5:6", //
            "/a 12:34", "/b 0:7", "/moved 5:6", "/pipe 8:9", "1", //
            "/copy 1:1", "/link 5:6", "/home/app 4294967294:3", "1", //
            "/again 5:6", "/pipe 8:9",
        ],
    );
}

#[test]
fn an_owner_stays_with_its_file_under_each_of_its_names() {
    prints(
        "
        FROM debian
        WORKDIR /w
        RUN touch a one x p q && mkdir d && ln one other && chown 5:6 a d one && chown 7:8 x p \\
         && mv a b && mv d e && ln x y && mv y z && ln -s b s && rm one \\
         && stat -c '%n %u:%g' b e/ e/. other x z s && stat -L -c %u:%g s
        RUN mv b c && mv e f && ln z y && stat -c '%n %u:%g' c f x y /etc/shadow
        RUN <<'EOF' perl -
        my ($p, $q, $here, $none, $made) = ('p', 'q', '.', '', 'made');
        syscall(316, -100, $p, -100, $q, 2) == 0 or die \"renameat2: $!\";
        my $file = syscall(257, -100, $here, 020200002, 0600);
        syscall(93, $file, 9, 10) == 0 or die \"fchown: $!\";
        syscall(265, $file, $none, -100, $made, 0x1000) == 0 or die \"linkat: $!\";
        for (qw(p q made)) { my @file = lstat; print \"$_ $file[4]:$file[5]\\n\"; }
        EOF
        RUN --mount=type=cache,target=/cache touch /cache/file && chown 3:4 /cache/file
        RUN --mount=type=cache,target=/cache stat -c '%n %u:%g' /cache/file
        ",
        &[
            "b 5:6",
            "e/ 5:6",
            "e/. 5:6",
            "other 5:6",
            "x 7:8",
            "z 7:8",
            "s 0:0",
            "5:6", //
            "c 5:6",
            "f 5:6",
            "x 7:8",
            "y 7:8",
            "/etc/shadow 0:42", //
            "p 0:0",
            "q 7:8",
            "made 9:10", //
            "/cache/file 3:4",
        ],
    );
}

#[test]
fn a_device_is_one_to_who_looks_and_in_the_image() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN umask 027 && mknod /n c 1 3 && mknod -m 604 /b b 259 300 && chown 3:4 /b && stat -c '%A %t:%T' /n /b
        RUN chmod 666 /n && stat -c '%A %u:%g %t:%T' /n /b && cp -a /n /m && tar -cf /t n && mkdir /x && tar -xf /t -C /x \\
         && rm /t /n
        ",
    );
    let (image, log) = Rbuild::new(&User::stranger())
        .build(&project)
        .image_and_log();
    assert_eq!(
        log.output(),
        [
            "crw-r----- 1:3",
            "brw----r-- 103:12c",
            "crw-rw-rw- 0:0 1:3",
            "brw----r-- 3:4 103:12c"
        ]
    );
    crate::support::assert_lines(
        &image.tree().lines(&["b", "m", "x/n"]),
        "b 0604 3:4 b 259,300\nc 0666 0:0 m 1,3\nc 0666 0:0 x/n 1,3",
    );
}

#[test]
fn files_of_a_user_are_the_user_s_and_all_others_are_not() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN mkdir -m 2775 /shared && chown 0:50 /shared && mkdir -m 777 /open && touch /open/old
        USER 1000:1000
        RUN id -u; id -g; stat -c '%n %u:%g' /etc/passwd /home/app /open /open/old; touch /open/new /shared/new; \\
            mkdir /shared/folder; ln -s x /open/link; mkfifo /open/pipe; stat -c '%n %u:%g' /open/new /open/link; \\
            chown 0 /open/new || echo refused; chown :1000 /open/new && echo taken; chown 1000 /open/old || echo refused
        USER root
        RUN stat -c '%n %u:%g' /open /open/* /shared/*; echo x > /shared/folder/of-root; stat -c '%u' /shared/folder/of-root
        ",
    );
    let (image, log) = Rbuild::new(&User::stranger())
        .build(&project)
        .image_and_log();
    let output: Vec<String> = log
        .output()
        .iter()
        .filter(|line| !line.contains("not permitted"))
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        output,
        [
            "1000",
            "1000",
            "/etc/passwd 0:0",
            "/home/app 1000:1000",
            "/open 0:0",
            "/open/old 0:0",
            "/open/new 1000:1000",
            "/open/link 1000:1000",
            "refused",
            "taken",
            "refused", //
            "/open 0:0",
            "/open/link 1000:1000",
            "/open/new 1000:1000",
            "/open/old 0:0",
            "/open/pipe 1000:1000",
            "/shared/folder 1000:50",
            "/shared/new 1000:50",
            "0",
        ]
    );
    let tree = image.tree();
    for (path, owner) in [
        ("open", (0, 0)),
        ("open/pipe", (1000, 1000)),
        ("shared/new", (1000, 50)),
        ("shared/folder/of-root", (0, 50)),
    ] {
        let node = tree.get(path);
        assert_eq!((node.uid, node.gid), owner, "{path}");
    }
}

#[test]
fn root_may_change_users_and_nothing_comes_of_it() {
    prints(
        "
        FROM debian
        RUN useradd -m -u 1234 joe && su joe -c true && setpriv --reuid 33 --regid 33 --clear-groups true \\
         && install -o joe -g www-data -m 640 /etc/hostname /x && stat -c '%U:%G %a' /x /home/joe \\
         && perl -e '$< = $> = 33; exit($! ? 1 : 0)'
        ",
        &["joe:www-data 640", "joe:joe 755"],
    );
}

#[test]
fn a_step_can_neither_forge_nor_see_the_attribute_that_holds_owners() {
    prints(
        r#"
        FROM debian
        RUN touch /f && chown 5:6 /f
        RUN <<'EOF' perl -
              my ($path, $name, $value) = ("/f\0", "user.containers.override_stat\0", "0:0:0755:file");
              open my $f, "<", "/f";
              for my $call ([188, $path], [189, $path], [190, fileno($f)]) {
                  my $r = syscall($call->[0], $call->[1], $name, $value, length $value, 0);
                  print "$r ", $!+0, "\n";
              }
              print syscall(197, $path, $name), " ", $!+0, "\n";
              print syscall(463, -100, $path, 0, $name, 0, 0) == -1 ? "refused\n" : "set\n";
              my ($own, $list, $v) = ("user.mine\0", "\0" x 100, "v");
              print syscall(188, $path, $own, $v, 1, 0), "\n";
              my $n = syscall(194, $path, $list, 100);
              print "$n ", substr($list, 0, $n - 1), "\n";
        EOF
        RUN stat -c %u:%g /f
        "#,
        &[
            "-1 1",
            "-1 1",
            "-1 1",
            "-1 1",
            "refused",
            "0",
            "10 user.mine",
            "5:6",
        ],
    );
}

#[test]
fn the_supervisor_outlives_what_a_step_does_to_itself() {
    prints(
        "
        FROM debian
        RUN kill -9 1; (sleep 60 &) ; kill -9 -1; stat -c %U:%G /etc/shadow
        RUN mkdir -p /r/bin /r/lib64 /r/lib && cp -a /lib/x86_64-linux-gnu /r/lib/ && cp /lib64/* /r/lib64/ \\
         && cp /bin/stat /bin/chown /bin/touch /r/bin && chroot /r /bin/touch /in && chroot /r /bin/chown 44:55 /in \\
         && chroot /r /bin/stat -c %u:%g /in && stat -c %u:%g /r/in && cd /r && stat -c %u:%g in ../r/in
        ",
        &["root:shadow", "44:55", "44:55", "44:55", "44:55"],
    );
}

#[test]
fn calls_with_bad_arguments_fail_as_they_do_elsewhere() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        r#"
        FROM debian
        RUN <<'EOF' perl -
              sub says { my ($name, $r) = @_; print "$name ", $r == -1 ? $!+0 : "ok", "\n"; }
              my $buffer = "\0" x 256;
              my ($none, $file, $empty) = ("/none\0", "/etc/passwd\0", "\0");
              says("stat of nothing", syscall(4, $none, $buffer));
              says("stat into nowhere", syscall(4, $file, 8));
              says("stat from nowhere", syscall(4, 8, $buffer));
              says("fstat of no descriptor", syscall(5, 77, $buffer));
              says("chown of nothing", syscall(92, $none, 1, 1));
              says("chown from nowhere", syscall(92, 8, 1, 1));
              says("fchown of no descriptor", syscall(93, 77, 1, 1));
              says("an empty path", syscall(260, -100, $empty, 1, 1, 0));
              my $long = ("a/" x 2047) . "\0";
              says("a long path", syscall(4, $long, $buffer));
              my $longer = ("a" x 5000) . "\0";
              says("a path too long", syscall(4, $longer, $buffer));
              says("a name too long", syscall(92, $longer, 1, 1));
        EOF
        "#,
    );
    let said = |user: &User| -> Vec<String> {
        let log = Rbuild::new(user).build(&project).ok();
        log.output().iter().map(ToString::to_string).collect()
    };
    // The kernel itself answers root.
    assert_eq!(said(&User::stranger()), said(&User::Caller));
}

#[test]
fn many_threads_and_processes_may_ask_at_once() {
    if !is_possible() {
        return;
    }
    let project = Project::with(
        "
        FROM busybox
        RUN for p in $(seq 1 50); do (for n in $(seq 1 20); do touch /f$p.$n; chown $p:$n /f$p.$n; done) & done; wait; \\
            stat -c '%u.%g' /f* | sort -n > /seen; ls / | grep '^f' | sed 's/^f//' | sort -n | cmp - /seen && wc -l < /seen
        ",
    );
    let log = Rbuild::new(&User::stranger()).build(&project).ok();
    assert_eq!(log.output(), ["1000"]);
}
