//! The options of `rbuild run`, as clap reads them.

use clap::{ArgAction, Args, ValueEnum};

use crate::cli::run_settings::RunSettingsArguments;
use crate::cli::spelling::parse_bool;
use crate::platform::Platform;

/// `--pull`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub(super) enum PullChoice {
    /// Ask the registry each time
    Always,
    /// Ask it where the store has no such image
    #[default]
    Missing,
    /// Never ask it
    Never,
}

/// Options of `rbuild run`.
#[derive(Args, Debug)]
#[command(
    override_usage = "rbuild run [OPTIONS] IMAGE [COMMAND [ARG…]]",
    // `-h` is the host name, as with Docker.
    disable_help_flag = true,
    after_help = "The image's file system is the program's own for the time of the run; what it writes there is \
        gone afterwards. The network is the machine's: a port that the program opens is open on the \
        machine. Ctrl-C and SIGTERM reach the program; a second one ends it.\n\n\
        Examples:\n  \
        rbuild run -it alpine                           a shell\n  \
        rbuild run -v .:/src -w /src golang go test     a command in this folder\n  \
        rbuild run -p 8080:80 nginx                     a server\n\n\
        Exit code: the program's; 125 where rbuild fails, 126 where the program can't be executed, \
        127 where it isn't there, 128 and the signal's number where a signal ended it."
)]
pub struct RunArguments {
    /// The image, by name or id, then the command in place of the image's own
    #[arg(value_name = "IMAGE", required = true, trailing_var_arg = true, num_args = 1..)]
    pub(super) words: Vec<String>,

    /// Set a variable; without a value, the one of rbuild's environment
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub(super) env: Vec<String>,

    /// Set the variables that a file has, one in each line
    #[arg(long, value_name = "FILE")]
    pub(super) env_file: Vec<std::path::PathBuf>,

    /// Run this program in place of the image's entrypoint
    #[arg(long, value_name = "PROGRAM")]
    pub(super) entrypoint: Option<String>,

    /// Working directory
    #[arg(short, long, value_name = "DIR")]
    pub(super) workdir: Option<String>,

    /// Run as this user of the image
    #[arg(short, long, value_name = "USER[:GROUP]")]
    pub(super) user: Option<String>,

    /// Show a file or folder of the machine: SOURCE:TARGET[:ro]
    #[arg(short, long, value_name = "SOURCE:TARGET[:ro]")]
    pub(super) volume: Vec<String>,

    /// The same in words: type=bind,source=PATH,target=PATH[,readonly] or type=tmpfs,target=PATH
    #[arg(long, value_name = "WORDS")]
    pub(super) mount: Vec<String>,

    /// An empty folder in memory: PATH[:size=64m,mode=755,exec,ro]
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub(super) tmpfs: Vec<String>,

    /// Give the program rbuild's standard input
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, hide_default_value = true)]
    pub(super) interactive: bool,

    /// Give the program a terminal
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, hide_default_value = true)]
    pub(super) tty: bool,

    /// Reach a port of the program under another number: [IP:][PORT:]PORT[/tcp]
    #[arg(short, long, value_name = "[IP:]PORT:PORT")]
    pub(super) publish: Vec<String>,

    /// Say which ports of the machine are those that the image exposes
    #[arg(short = 'P', long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, hide_default_value = true)]
    pub(super) publish_all: bool,

    /// The machine's network, one of its own that reaches others, or none: host, private, none
    #[arg(long, visible_alias = "net", value_name = "MODE")]
    pub(super) network: Option<String>,

    /// Host name that the program sees
    #[arg(short = 'h', long, value_name = "NAME")]
    pub(super) hostname: Option<String>,

    /// Refuse writing to the image's file system, but for its volumes
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, hide_default_value = true)]
    pub(super) read_only: bool,

    /// Seconds that the program has to end after a signal before it is killed
    #[arg(long, value_name = "SECONDS", default_value_t = 10)]
    pub(super) stop_timeout: u64,

    #[command(flatten)]
    pub(super) settings: RunSettingsArguments,

    /// Memory that is left to the program while others have more than theirs
    #[arg(long, value_name = "SIZE")]
    pub(super) memory_reservation: Option<String>,

    /// Limit the number of processes and threads
    #[arg(long, value_name = "NUMBER", allow_hyphen_values = true)]
    pub(super) pids_limit: Option<String>,

    /// When to ask the registry: always, missing, never
    #[arg(
        long,
        value_name = "WHEN",
        value_enum,
        default_value = "missing",
        hide_possible_values = true
    )]
    pub(super) pull: PullChoice,

    /// Show no progress of a pull
    #[arg(short, long, num_args = 0..=1, require_equals = true, default_missing_value = "true",
        default_value = "false", value_name = "BOOL", value_parser = switch, action = ArgAction::Set, hide_default_value = true)]
    pub(super) quiet: bool,

    /// The platform to take where the image has several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    pub(super) platform: Option<Platform>,

    /// Show this help
    #[arg(long, action = ArgAction::Help)]
    help: Option<bool>,

    /// Say more, as `-v` does before the command
    // Stands for the option of every command, whose short form is a volume here.
    #[arg(long, alias = "debug", action = ArgAction::Count, help_heading = "Global options")]
    verbose: u8,
}

fn switch(text: &str) -> Result<bool, &'static str> {
    parse_bool(text).ok_or("it is true or false")
}
