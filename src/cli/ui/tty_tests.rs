use super::super::script::Script;
use super::super::terminal::Colours;
use super::*;
use std::sync::{Arc, Mutex};

/// A terminal of a given size and what it shows, line by line.
struct Screen(vt100::Parser);

impl Screen {
    fn new(width: usize, height: usize) -> Self {
        Self(vt100::Parser::new(height as u16, width as u16, 0))
    }

    fn write(&mut self, text: &str) {
        // The kernel's terminal driver does as much.
        self.0.process(text.replace('\n', "\r\n").as_bytes());
    }

    fn lines(&self) -> Vec<String> {
        let width = self.0.screen().size().1;
        let rows = self.0.screen().rows(0, width);
        let mut lines: Vec<String> = rows.map(|row| row.trim_end().to_owned()).collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines
    }
}

fn tty(width: usize, height: usize) -> Tty {
    Tty::new(
        Style::PLAIN,
        Phase::Building,
        6,
        Box::new(move || Size { width, height }),
    )
}

fn open(script: Script, width: usize, height: usize) -> Vec<String> {
    let mut trace = Trace::new(Colours::Drop);
    let mut screen = Screen::new(width, height);
    screen.write(&script.play_open(&mut trace, &mut tty(width, height)));
    screen.lines()
}

fn ended(script: Script, width: usize, height: usize) -> Vec<String> {
    let mut screen = Screen::new(width, height);
    screen.write(&script.play(&mut tty(width, height)));
    screen.lines()
}

fn build() -> Script {
    Script::new()
        .announce(0, "[1/3] FROM docker.io/library/golang:latest")
        .announce(1, "[2/3] COPY . .")
        .announce(2, "[3/3] RUN go build")
        .start(0)
        .start(1)
        .at(1500)
        .progress(0, "sha256:0123456789abcdef", 1_000_000, Some(4_000_000))
        .at(3500)
        .progress(0, "sha256:0123456789abcdef", 2_000_000, Some(4_000_000))
}

#[test]
fn running_steps_are_drawn_below_ended_ones() {
    assert_eq!(
        open(build().done(1, 100), 60, 24),
        [
            " => [2/3] COPY . .                                      0.1s",
            "[+] Building 3.5s (1/3)",
            " => [1/3] FROM docker.io/library/golang:latest          3.5s",
            " => => sha256:0123456789ab 2.00MB / 4.00MB  1.00MB/s    2.0s",
        ]
    );
    let script = build()
        .done(1, 100)
        .cached(0)
        .start(2)
        .log(2, "go: downloading a\n\ngo: downloading b\r10%\r20%")
        .at(4000)
        .tick();
    assert_eq!(
        open(script, 60, 24),
        [
            " => [2/3] COPY . .                                      0.1s",
            " => CACHED [1/3] FROM docker.io/library/golang:latest   0.0s",
            "[+] Building 4.0s (2/3)",
            " => [3/3] RUN go build                                  0.5s",
            " => => # go: downloading a",
            " => => # 20%",
        ]
    );
}

#[test]
fn a_window_shows_the_last_lines_as_far_as_there_is_room() {
    let mut script = Script::new()
        .announce(0, "[a 1/1] RUN a")
        .announce(1, "[b 1/1] RUN b")
        .start(0)
        .start(1);
    for n in 0..20 {
        script = script.log(0, &format!("a {n}\n"));
    }
    script = script.log(1, "b\n").tick();
    assert_eq!(
        open(script, 30, 9),
        [
            "[+] Building 0.0s (0/2)",
            " => [a 1/1] RUN a         0.0s",
            " => => # a 18",
            " => => # a 19",
            " => [b 1/1] RUN b         0.0s",
            " => => # b",
        ]
    );
}

#[test]
fn cached_steps_are_folded() {
    let names = [
        "[builder 2/4] WORKDIR /src",
        "[builder 3/4] COPY . .",
        "[builder 4/4] RUN make",
        "[stage-1 2/2] COPY --from=builder /src/out /",
    ];
    let mut script = Script::new();
    for (id, name) in names.iter().enumerate() {
        script = script.announce(id, name);
    }
    script = script.announce(4, "exporting to image");
    for id in [0, 1, 3, 2] {
        script = script.cached(id);
    }
    assert_eq!(
        ended(script.start(4).done(4, 10), 60, 24),
        [
            " => CACHED 4 steps: [builder 2-4/4] [stage-1 2/2]       0.0s",
            " => exporting to image                                  0.0s",
            "[+] Building 0.0s (5/5) FINISHED",
        ]
    );
    for (numbers, text) in [(&[2][..], "2"), (&[2, 3, 5, 7, 8], "2-3,5,7-8")] {
        assert_eq!(ranges(numbers), text);
    }
}

#[test]
fn the_end_leaves_only_lines_that_stay() {
    let script = build()
        .done(0, 3500)
        .done(1, 100)
        .start(2)
        .log(2, "a\n")
        .at(5000)
        .failed(2, "exit code: 1", 1500);
    assert_eq!(
        ended(script, 50, 24),
        [
            " => [1/3] FROM docker.io/library/golang:late… 3.5s",
            " => [2/3] COPY . .                            0.1s",
            " => ERROR [3/3] RUN go build                  1.5s",
            "[+] Building 5.0s (3/3) FAILED",
        ]
    );
}

#[test]
fn warnings_and_notes_stand_above() {
    let mut trace = Trace::new(Colours::Drop);
    let mut tty = tty(40, 24);
    let mut screen = Screen::new(40, 24);
    screen.write(
        &build()
            .warning("careful")
            .finding()
            .play_open(&mut trace, &mut tty),
    );
    screen.write(&tty.note(&trace, "a log message\n", Duration::from_secs(4)));
    assert_eq!(
        screen.lines()[..3],
        [
            "warning: careful",
            "a log message",
            "[+] Building 4.0s (0/3)"
        ]
    );
}

#[test]
fn what_is_typed_meanwhile_leaves_nothing_behind() {
    let mut trace = Trace::new(Colours::Drop);
    let mut tty = tty(40, 24);
    let mut screen = Screen::new(40, 24);
    screen.write(&build().play_open(&mut trace, &mut tty));
    screen.write("^C");
    screen.write(&tty.finish(&trace, Duration::from_secs(4)));
    screen.write("x\n");
    assert_eq!(
        screen.lines(),
        [
            " => CANCELED [1/3] FROM docker.io/… 4.0s",
            " => CANCELED [2/3] COPY . .         4.0s",
            "[+] Building 4.0s (0/3) FAILED",
            "x",
        ]
    );
}

#[test]
fn a_terminal_that_becomes_smaller_is_drawn_anew() {
    let size = Arc::new(Mutex::new(Size {
        width: 60,
        height: 24,
    }));
    let asked = Arc::clone(&size);
    let mut tty = Tty::new(
        Style::PLAIN,
        Phase::Building,
        6,
        Box::new(move || *asked.lock().unwrap()),
    );
    let mut trace = Trace::new(Colours::Drop);
    let mut screen = Screen::new(60, 24);
    screen.write(&build().done(1, 100).play_open(&mut trace, &mut tty));
    for (width, height) in [(40, 24), (30, 6), (60, 24)] {
        *size.lock().unwrap() = Size { width, height };
        screen.0.screen_mut().set_size(height as u16, width as u16);
        screen.write(&tty.show(&trace, &[], Duration::from_secs(4)));
        let shown = screen.lines();
        assert_eq!(shown.len(), 4, "{shown:#?}");
        assert_eq!(
            shown[0],
            justify(
                " => [2/3] COPY . .",
                "0.1s",
                width.min(if height == 24 && width == 60 {
                    30
                } else {
                    width
                })
            )
        );
        assert_eq!(shown[1], "[+] Building 4.0s (1/3)");
    }
}

#[test]
fn nothing_is_taller_or_wider_than_the_terminal() {
    for (width, height) in [(1, 2), (10, 3), (20, 5), (40, 8)] {
        let mut script = Script::new();
        for id in 0..30 {
            script = script
                .announce(id, "[stage 1/1] RUN something long enough to be cut")
                .start(id)
                .log(id, "and a line of output that is also rather long\n")
                .progress(id, "sha256:0123456789abcdef", 1, Some(2));
        }
        let mut trace = Trace::new(Colours::Drop);
        let mut tty = tty(width, height);
        let text = script.at(1000).tick().play_open(&mut trace, &mut tty);
        let mut screen = Screen::new(width, height);
        screen.write(&text);
        // Had a row too many been drawn, the heading would have scrolled away.
        let heading = truncate("[+] Building 1.0s (0/30)", width);
        assert_eq!(screen.lines()[0], heading);
    }
}
