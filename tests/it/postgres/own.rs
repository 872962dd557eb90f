//! A PostgreSQL server of one test, which the test stops and starts as it likes.

use tempfile::TempDir;

use super::Place;

/// A running server; what it acknowledged is there after it was killed.
pub(crate) struct OwnServer {
    place: Place,
    port: u16,
    options: String,
    _folder: TempDir,
}

impl OwnServer {
    /// Starts a server on loopback; `None` where PostgreSQL is not installed, which fails when `CI` is `true`.
    pub(crate) fn start() -> Option<Self> {
        let mut place = Place::find_or_say()?;
        let folder = tempfile::tempdir().expect("a folder");
        folder.path().clone_into(&mut place.folder);
        place.fill(&place.folder.join("data"));
        let port = crate::ports::free();
        // A process that is killed loses nothing that it gave to the system; only the machine's end needs more.
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={} \
             -c fsync=off -c max_connections=100 -c shared_buffers=32MB",
            place.folder.display()
        );
        let server = Self {
            place,
            port,
            options,
            _folder: folder,
        };
        server.start_again();
        Some(server)
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Ends the server at once, with all its connections.
    pub(crate) fn kill(&self) {
        let mut stop = self.place.command("pg_ctl");
        stop.args(["stop", "-m", "immediate", "-D"]);
        let stopped = stop.arg(self.place.folder.join("data")).output();
        super::succeed(&stopped.expect("pg_ctl"));
    }

    /// Ends the server once it has written everything to its disk.
    pub(crate) fn stop(&self) {
        let mut stop = self.place.command("pg_ctl");
        stop.args(["stop", "-m", "fast", "-D"]);
        let stopped = stop.arg(self.place.folder.join("data")).output();
        super::succeed(&stopped.expect("pg_ctl"));
    }

    /// Starts the server, which was killed or stopped.
    pub(crate) fn start_again(&self) {
        let data = self.place.folder.join("data");
        self.place.begin(&data, &self.options);
    }

    /// Runs a statement. Returns what it printed.
    pub(crate) fn run(&self, sql: &str) -> String {
        let mut psql = self.place.command("psql");
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U"]);
        let port = self.port.to_string();
        psql.args(["postgres", "-h", "127.0.0.1", "-p", &port, "-c", sql]);
        let output = psql.output().expect("psql");
        super::succeed(&output);
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for OwnServer {
    fn drop(&mut self) {
        let mut stop = self.place.command("pg_ctl");
        stop.args(["stop", "-m", "immediate", "-D"]);
        drop(stop.arg(self.place.folder.join("data")).output());
    }
}
