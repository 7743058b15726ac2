//! A home directory for tests of `slm-mesh setup`, with settings files of agents, and with fake agents that only record
//! their arguments.

use super::Place;
use serde_json::Value;
use std::path::PathBuf;
use std::process::Output;

/// A home directory and a search path for one test. No real agent is on the search path.
pub struct Home {
    /// The mesh of this user.
    pub place: Place,
    /// The home directory.
    pub home: PathBuf,
    /// The folder for fake agents, which is first on the search path.
    pub bin: PathBuf,
}

impl Home {
    pub fn new() -> Home {
        let place = Place::new();
        let (home, bin) = (place.root.join("home"), place.root.join("bin"));
        std::fs::create_dir_all(&bin).unwrap();
        std::fs::create_dir_all(place.root.join("project")).unwrap();
        Home { place, home, bin }
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let mut command = self.place.command(args);
        let path = format!("{}:/usr/bin:/bin", self.bin.display());
        command.env("PATH", path).current_dir(self.place.root.join("project")).output().unwrap()
    }

    pub fn setup(&self, args: &[&str]) -> (i32, String) {
        let out = self.run(&[&["setup"], args].concat());
        (out.status.code().unwrap(), String::from_utf8(out.stdout).unwrap() + &String::from_utf8_lossy(&out.stderr))
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let (status, said) = self.setup(args);
        assert_eq!(status, 0, "{args:?}: {said}");
        said
    }

    pub fn write(&self, path: &str, text: &str) -> PathBuf {
        let path = self.home.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.home.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub fn value(&self, path: &str) -> Value {
        serde_json::from_str(&self.read(path)).unwrap()
    }

    /// Creates a fake agent on the search path: a script that records its arguments in a file, and then runs `line`.
    pub fn fake(&self, name: &str, line: &str) {
        let path = self.bin.join(name);
        let log = self.bin.join(format!("{name}.log"));
        let text = format!(
            "#!/bin/sh\nfor word in \"$@\"; do printf '%s\\n' \"$word\"; done >> '{}'\n{line}\n",
            log.display()
        );
        super::put_program(&path, text.as_bytes());
    }

    pub fn asked(&self, name: &str) -> Vec<String> {
        let text = std::fs::read_to_string(self.bin.join(format!("{name}.log"))).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}
