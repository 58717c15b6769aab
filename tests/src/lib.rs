//! Running the programs as a user does: a [`Dir`] holds the files of one test, a [`Command`] runs a
//! program in it.
//!
//! ```no_run
//! use scrl_tests::Dir;
//!
//! let dir = Dir::new().images(8);
//! dir.prep("images shards").succeeds();
//! dir.prep("--seed 1 images shards").fails(1).says(&["seed: 0 → 1"]);
//! ```

#![deny(missing_docs)]

use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{self, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use image::{Rgb, RgbImage};

/// Time limit for a program to reach the point where it is interrupted.
const PATIENCE: Duration = Duration::from_secs(120);

/// A folder for one test, removed at its end. Every path given to it is relative to it.
pub struct Dir {
    folder: tempfile::TempDir,
}

impl Default for Dir {
    fn default() -> Self {
        Self::new()
    }
}

impl Dir {
    /// An empty folder.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// With `images/`: this number of small textured images, alternately JPEG and PNG, in three
    /// class folders.
    pub fn images(self, count: u32) -> Self {
        for index in 0..count {
            let extension = if index % 2 == 0 { "jpg" } else { "png" };
            let path = self.new_path(&format!("images/class{}/{index:03}.{extension}", index % 3));
            draw_image(index)
                .save(&path)
                .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        }
        self
    }

    /// With a file.
    pub fn file(self, name: &str, content: impl AsRef<[u8]>) -> Self {
        let path = self.new_path(name);
        fs::write(&path, content).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        self
    }

    /// With an empty folder.
    pub fn folder(self, name: &str) -> Self {
        self.new_path(&format!("{name}/x"));
        self
    }

    fn new_path(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        let folder = path.parent().expect("a path below the folder");
        fs::create_dir_all(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        path
    }

    /// The path of a file.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A file's bytes.
    pub fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// A file's text.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.read(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }

    /// Removes a file.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    }

    /// Every file below a folder: bytes by path, with `/` between folders.
    pub fn files(&self, name: &str) -> BTreeMap<String, Vec<u8>> {
        let mut found = BTreeMap::new();
        collect_files(&self.path(name), "", &mut found);
        found
    }

    /// Expects two folders to hold the same files, byte for byte.
    #[track_caller]
    pub fn assert_same(&self, a: &str, b: &str) {
        let (files_a, files_b) = (self.files(a), self.files(b));
        assert_eq!(
            files_a.keys().collect::<Vec<_>>(),
            files_b.keys().collect::<Vec<_>>(),
            "{a} and {b}"
        );
        for (name, bytes) in files_a {
            assert!(bytes == files_b[&name], "{name} differs between {a} and {b}");
        }
    }

    /// `scrl-prep` with these arguments, separated by blanks.
    pub fn prep(&self, arguments: &str) -> Command<'_> {
        self.command("scrl-prep", arguments)
    }

    /// `scrl-inspect` with these arguments, separated by blanks.
    pub fn inspect(&self, arguments: &str) -> Command<'_> {
        self.command("scrl-inspect", arguments)
    }

    /// `scrl-train` with these arguments, separated by blanks.
    pub fn train(&self, arguments: &str) -> Command<'_> {
        self.command("scrl-train", arguments)
    }

    /// `scrl-export` with these arguments, separated by blanks.
    pub fn export(&self, arguments: &str) -> Command<'_> {
        self.command("scrl-export", arguments)
    }

    /// `scrl-eval` with these arguments, separated by blanks.
    pub fn eval(&self, arguments: &str) -> Command<'_> {
        self.command("scrl-eval", arguments)
    }

    /// `scrl-embed` with these arguments, separated by blanks.
    pub fn embed(&self, arguments: &str) -> Command<'_> {
        self.command("scrl-embed", arguments)
    }

    /// The example `make_scenes` with these arguments, separated by blanks.
    pub fn make_scenes(&self, arguments: &str) -> Command<'_> {
        self.command("examples/make_scenes", arguments)
    }

    /// A Python program of `scripts/` with these arguments, separated by blanks.
    pub fn script(&self, name: &str, arguments: &str) -> Command<'_> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("scripts").join(name);
        self.run("python3".into(), format!("{} {arguments}", script.display()))
    }

    fn command(&self, program: &str, arguments: &str) -> Command<'_> {
        self.run(find_program(program), arguments.to_owned())
    }

    fn run(&self, program: PathBuf, arguments: String) -> Command<'_> {
        let variables = Vec::new();
        Command {
            dir: self,
            program,
            arguments,
            variables,
            largest_file: None,
            closed_output: false,
        }
    }
}

fn collect_files(folder: &Path, prefix: &str, found: &mut BTreeMap<String, Vec<u8>>) {
    let entries =
        fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    for entry in entries {
        let entry = entry.unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let name = format!("{prefix}{}", entry.file_name().display());
        if entry.path().is_dir() {
            collect_files(&entry.path(), &format!("{name}/"), found);
        } else {
            let bytes = fs::read(entry.path()).unwrap_or_else(|error| panic!("{name}: {error}"));
            found.insert(name, bytes);
        }
    }
}

/// Two textures, one inside the other: every image is different and has structure at every scale.
fn draw_image(index: u32) -> RgbImage {
    let (width, height) = (80 + 5 * (index % 7), 72 + 3 * (index % 5));
    RgbImage::from_fn(width, height, |x, y| {
        let inside = x.abs_diff(width / 2) < width / 4 && y.abs_diff(height / 2) < height / 4;
        let (scale, shift) = if inside { (13 + index, 40) } else { (3 + index % 4, 0) };
        Rgb([x * scale + 29 * index, y * scale + 61 * index + shift, (x * y) / 8 + 17 * index]
            .map(|value| if value & 256 == 0 { value as u8 } else { !(value as u8) }))
    })
}

/// The programs are next to the tests' folder: `target/<profile>/deps/test-1234` and
/// `target/<profile>/scrl-prep`.
fn find_program(name: &str) -> PathBuf {
    let test = env::current_exe().expect("the path of this test");
    let profile = test.ancestors().nth(2).expect("a test two folders deep");
    let program = profile.join(format!("{name}{}", env::consts::EXE_SUFFIX));
    assert!(
        program.exists(),
        "{} is missing: run scripts/test.sh, or cargo build --workspace --bins --examples first",
        program.display()
    );
    program
}

/// A program and its arguments, to be run in the test's folder.
pub struct Command<'a> {
    dir: &'a Dir,
    program: PathBuf,
    arguments: String,
    variables: Vec<(&'static str, String)>,
    largest_file: Option<u32>,
    closed_output: bool,
}

impl Command<'_> {
    /// With an environment variable.
    pub fn variable(mut self, name: &'static str, value: impl ToString) -> Self {
        self.variables.push((name, value.to_string()));
        self
    }

    /// With standard output closed at the other end, as by `| head` that has ended.
    pub fn with_closed_output(mut self) -> Self {
        self.closed_output = true;
        self
    }

    /// With a disk that is full as soon as a file has this many KiB.
    #[cfg(unix)]
    pub fn with_room_for(mut self, kib: u32) -> Self {
        self.largest_file = Some(kib);
        self
    }

    /// Runs the program and kills it, as by `kill -9`, after this time. Returns whether it was
    /// killed; a program that ended before must have succeeded.
    #[track_caller]
    pub fn killed_after(self, time: Duration) -> bool {
        let mut child = self.start();
        thread::sleep(time);
        let ended = child.try_wait().expect("a child process");
        if ended.is_none() {
            child.kill().expect("a child to kill");
            child.wait().expect("a child process");
        }
        assert!(ended.is_none_or(|status| status.success()), "{} failed", self.arguments);
        ended.is_none()
    }

    /// Runs the program and expects exit code 0.
    #[track_caller]
    pub fn succeeds(self) -> Output {
        self.fails(0)
    }

    /// Runs the program and expects an exit code.
    #[track_caller]
    pub fn fails(self, code: i32) -> Output {
        let child = self.start();
        self.end(child, code)
    }

    /// Runs the program until `ready` holds, presses Ctrl-C, and expects exit code 130.
    #[cfg(unix)]
    #[track_caller]
    pub fn interrupted_once(self, ready: impl Fn() -> bool) -> Output {
        self.stopped_by("INT", ready)
    }

    /// Runs the program until `ready` holds, sends it the signal, and expects exit code 130.
    #[cfg(unix)]
    #[track_caller]
    pub fn stopped_by(self, signal: &str, ready: impl Fn() -> bool) -> Output {
        let mut child = self.start();
        let start = Instant::now();
        while !ready() {
            let ended = child.try_wait().expect("a child process").is_some();
            assert!(
                !ended && start.elapsed() < PATIENCE,
                "{} did not get far enough",
                self.arguments
            );
            thread::sleep(Duration::from_millis(5));
        }
        let mut kill = process::Command::new("kill");
        kill.args([format!("-{signal}"), child.id().to_string()]);
        assert!(kill.status().expect("the kill command").success());
        self.end(child, 130)
    }

    #[track_caller]
    fn start(&self) -> process::Child {
        let mut command = process::Command::new(&self.program);
        if let Some(kib) = self.largest_file {
            // Without the trap the signal would end the program, which a full disk does not.
            let limit = format!("trap '' XFSZ; ulimit -f {kib}; exec \"$@\"");
            command = process::Command::new("bash");
            command.arg("-c").arg(limit).arg("bash").arg(&self.program);
        }
        let output = if self.closed_output {
            let (reader, writer) = io::pipe().expect("a pipe");
            drop(reader);
            writer.into()
        } else {
            Stdio::piped()
        };
        command
            .args(self.arguments.split_whitespace())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.path(""))
            .stdin(Stdio::null())
            .stdout(output)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.program.display()))
    }

    #[track_caller]
    fn end(self, child: process::Child, code: i32) -> Output {
        let output = child.wait_with_output().expect("a child process");
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let output = Output {
            code: output.status.code(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        let line = format!("{} {}", self.program.display(), self.arguments);
        assert_eq!(
            output.code,
            Some(code),
            "exit code of {line}\n{}{}",
            output.stdout,
            output.stderr
        );
        output
    }
}

/// The exit code and the output of a program.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Expects a line on standard error that contains all of `words`.
    #[track_caller]
    pub fn says(&self, words: &[&str]) {
        let found = self.stderr.lines().any(|line| words.iter().all(|word| line.contains(word)));
        assert!(found, "no line with {words:?} in\n{}", self.stderr);
    }
}
