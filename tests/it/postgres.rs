//! A PostgreSQL server for tests: one for all of them, on a socket; each test has a database of its own.
//!
//! Test runners start a process for each test, so the first one starts the server and a small keeper beside it, which ends the server when no test has
//! used it for a while.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use tokio::sync::OnceCell;

use frameshift::metadata::{Database, ServerConfig};

pub(crate) mod own;
pub(crate) mod pooler;

/// The database that those of tests are copied from: it has the schema.
const TEMPLATE: &str = "frameshift_template";
/// Its name until it has the schema.
const BUILDING: &str = "frameshift_building";
/// Seconds that the server stays after its last test.
const LINGER: u32 = 20;

/// The running server, for as long as this process holds its lock.
struct Server {
    place: Place,
    _users: File,
}

/// A database of one test, dropped with it.
pub(crate) struct TestDatabase {
    name: String,
    place: Place,
}

/// Where the server's programs and files are, and who runs it.
#[derive(Clone)]
struct Place {
    bin: PathBuf,
    folder: PathBuf,
    /// The user and group that the server runs as, where this process is root, which it refuses.
    user: Option<(u32, u32)>,
}

/// A fresh database with the schema; `None` where PostgreSQL is not installed, which fails when `CI` is `true`.
pub(crate) async fn database() -> Option<TestDatabase> {
    copy_of(TEMPLATE).await
}

/// As [`database`], without a schema.
pub(crate) async fn empty_database() -> Option<TestDatabase> {
    copy_of("template0").await
}

async fn copy_of(template: &'static str) -> Option<TestDatabase> {
    static SERVER: OnceCell<Option<Server>> = OnceCell::const_new();
    let server = SERVER.get_or_init(start).await.as_ref()?;
    let name = format!("t{}", uuid::Uuid::now_v7().simple());
    let place = server.place.clone();
    let (created, own) = (place.clone(), name.clone());
    let create = move || {
        let sql = format!("CREATE DATABASE {own} TEMPLATE {template}");
        created.psql("postgres", &sql);
    };
    tokio::task::spawn_blocking(create).await.expect("created");
    Some(TestDatabase { name, place })
}

impl TestDatabase {
    /// How a server of ours connects to it.
    pub(crate) fn config(&self) -> ServerConfig {
        self.place.config(&self.name)
    }

    /// Runs statements in it.
    pub(crate) fn run(&self, sql: &str) {
        self.place.psql(&self.name, sql);
    }

    /// Runs a statement in it and returns what it says.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.place.psql(&self.name, sql)
    }

    /// Runs statements in it as another role. Returns what the server says when it refuses.
    pub(crate) fn run_as(&self, role: &str, sql: &str) -> Result<(), String> {
        let output = self.place.try_psql_as(role, &self.name, sql);
        match output.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Runs a script of psql in it, with these variables.
    pub(crate) fn run_script(&self, script: &str, variables: &[(&str, &str)]) {
        succeed(&self.try_script(script, variables));
    }

    /// As [`Self::run_script`], of a script that may be refused.
    pub(crate) fn try_script(&self, script: &str, variables: &[(&str, &str)]) -> Output {
        use std::io::Write as _;
        let mut psql = self.place.command("psql");
        psql.args(["-X", "-q", "-U", "postgres", "-h"]);
        psql.arg(&self.place.folder)
            .args(["-d", self.name.as_str(), "-f", "-"]);
        for (name, value) in variables {
            psql.arg("-v").arg(format!("{name}={value}"));
        }
        psql.stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut running = psql.spawn().expect("psql");
        let mut input = running.stdin.take().expect("its input");
        input.write_all(script.as_bytes()).expect("read");
        drop(input);
        running.wait_with_output().expect("psql")
    }

    /// The name of the database.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// How a server of ours connects to it as another role.
    pub(crate) fn config_of(&self, role: &str) -> ServerConfig {
        self.place.config_of(role, &self.name)
    }

    /// Ends every connection and lets none in, or lets them in again.
    pub(crate) fn set_away(&self, is_away: bool) {
        let name = &self.name;
        let lets_in = !is_away;
        let sql = format!("ALTER DATABASE {name} ALLOW_CONNECTIONS {lets_in}");
        self.place.psql("postgres", &sql);
        if is_away {
            self.end_connections();
        }
    }

    /// Makes new connections refuse writes, and ends those that do not; or the other way round.
    pub(crate) fn set_read_only(&self, is_read_only: bool) {
        let name = &self.name;
        let sql =
            format!("ALTER DATABASE {name} SET default_transaction_read_only = {is_read_only}");
        self.place.psql("postgres", &sql);
        // A server that becomes a primary again keeps the connections that it had as a standby: they have to be left by whoever has them.
        if is_read_only {
            self.end_connections();
        }
    }

    /// Has every statement in it logged from now on, by connections that are opened from now on; ends the others.
    pub(crate) fn log_statements(&self) {
        let name = &self.name;
        let sql = format!("ALTER DATABASE {name} SET log_statement = 'all'");
        self.place.psql("postgres", &sql);
        self.end_connections();
    }

    /// The statements that were logged.
    pub(crate) fn logged(&self) -> Vec<String> {
        let log = fs::read_to_string(self.place.folder.join("log")).expect("a log");
        let own = format!("[{}]", self.name);
        let lines = log.lines().filter(|line| line.starts_with(&own));
        let lines = lines.filter(|line| line.contains("execute") || line.contains("statement:"));
        lines.map(str::to_owned).collect()
    }

    fn end_connections(&self) {
        let sql = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{}'",
            self.name
        );
        self.place.psql("postgres", &sql);
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        // What is left goes with the server.
        drop(self.place.try_psql("postgres", &sql));
    }
}

async fn start() -> Option<Server> {
    let place = Place::find_or_say()?;
    let (lock, server) = tokio::task::spawn_blocking(move || place.join())
        .await
        .expect("the server starts");
    if let Some(lock) = lock {
        let template = server.place.config(BUILDING);
        let database = Database::connect(template).await.expect("the schema");
        database.close().await.expect("closed");
        let sql = format!("ALTER DATABASE {BUILDING} RENAME TO {TEMPLATE}");
        server.place.psql("postgres", &sql);
        // Others wait until the template is there.
        drop(lock);
    }
    Some(server)
}

impl Place {
    fn find() -> Option<Self> {
        let mut versions: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .map(|entry| entry.expect("a folder").path().join("bin"))
            .filter(|bin| bin.join("initdb").exists())
            .collect();
        versions.sort_by_key(|bin| {
            let version = bin.parent().and_then(Path::file_name)?;
            version.to_str()?.parse::<u32>().ok()
        });
        let bin = versions.pop()?;
        let id = rustix::process::geteuid();
        let user = match id.is_root() {
            true => Some(account("postgres")?),
            false => None,
        };
        // A socket's path may have 107 bytes, so that the target folder is no place for it.
        let folder = format!("frameshift-postgres-{}", id.as_raw());
        Some(Self {
            bin,
            folder: std::env::temp_dir().join(folder),
            user,
        })
    }

    /// As [`Self::find`], which says when there is none.
    fn find_or_say() -> Option<Self> {
        let found = Self::find();
        if found.is_none() {
            eprintln!("skipped: PostgreSQL is not installed, deploy/setup.sh --tests does that");
            let is_ci = std::env::var_os("CI").is_some_and(|ci| ci == "true");
            assert!(!is_ci, "PostgreSQL is not installed");
        }
        found
    }

    fn config(&self, database: &str) -> ServerConfig {
        self.config_of("postgres", database)
    }

    fn config_of(&self, role: &str, database: &str) -> ServerConfig {
        let folder = self.folder.display();
        let url = format!("postgres:///{database}?host={folder}&user={role}");
        let mut config = ServerConfig::at(&url).expect("a URL");
        // A machine that runs many tests at once is slow now and then.
        config.connections = 20;
        config.connect_timeout = std::time::Duration::from_secs(60);
        config
    }

    /// Joins the server, which is started when nobody has. Whoever started it gets the lock that others wait for.
    fn join(self) -> (Option<File>, Server) {
        fs::create_dir_all(&self.folder).expect("a folder");
        let open = |name: &str| {
            let path = self.folder.join(name);
            let file = File::options().create(true).append(true).open(path);
            file.expect("a lock's file")
        };
        let starting = open("starting");
        starting.lock().expect("locked");
        let users = open("users");
        users.lock_shared().expect("locked");
        let sql = format!("SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'");
        let found = self.try_psql("postgres", &sql);
        let is_running = found.status.success() && !found.stdout.is_empty();
        if !is_running {
            self.launch();
        }
        let server = Server {
            place: self,
            _users: users,
        };
        ((!is_running).then_some(starting), server)
    }

    fn launch(&self) {
        let data = self.folder.join("data");
        // What a server before left, which a crash or a restart of the machine ended.
        drop(
            self.command("pg_ctl")
                .arg("stop")
                .arg("-mimmediate")
                .arg("-D")
                .arg(&data)
                .output(),
        );
        drop(fs::remove_dir_all(&data));
        self.fill(&data);
        // Nothing here has to survive the machine.
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c full_page_writes=off \
             -c synchronous_commit=off -c max_connections=500 -c shared_buffers=64MB \
             -c log_line_prefix=[%d]",
            self.folder.display()
        );
        self.begin(&data, &options);
        self.psql("postgres", &format!("CREATE DATABASE {BUILDING}"));
        self.keep(&data);
    }

    /// Makes the server's files.
    fn fill(&self, data: &Path) {
        if let Some((user, group)) = self.user {
            chown(&self.folder, Some(user), Some(group)).expect("the server's folder");
        }
        fs::set_permissions(&self.folder, fs::Permissions::from_mode(0o755)).expect("a mode");
        let mut initdb = self.command("initdb");
        initdb.args([
            "--username=postgres",
            "--auth=trust",
            "--no-sync",
            "--encoding=UTF8",
        ]);
        initdb.args(["--locale=C.UTF-8", "-D"]).arg(data);
        succeed(&initdb.output().expect("initdb"));
    }

    /// Starts the server, once its files are there.
    fn begin(&self, data: &Path, options: &str) {
        let log = self.folder.join("log");
        let mut start = self.command("pg_ctl");
        start
            .args(["start", "-w", "-t", "120", "-D"])
            .arg(data)
            .arg("-l")
            .arg(log);
        start.arg("-o").arg(options);
        // The server keeps what it inherits: a pipe would never end.
        start.stdout(Stdio::null()).stderr(Stdio::null());
        assert!(start.status().expect("pg_ctl").success(), "no server");
    }

    /// Starts what ends the server: it waits for the last user, and a while for the next.
    #[allow(clippy::zombie_processes, reason = "it outlives this process")]
    fn keep(&self, data: &Path) {
        let script = format!(
            "while :; do exec 9>>users; flock -x 9; exec 9>&-; sleep {LINGER}; exec 9>>users; \
             if flock -xn 9; then {}/pg_ctl stop -mimmediate -D {}; rm -rf {}; exit; fi; done",
            self.bin.display(),
            data.display(),
            data.display()
        );
        let mut keeper = Command::new("sh");
        keeper.arg("-c").arg(script).current_dir(&self.folder);
        if let Some((user, group)) = self.user {
            let files = ["users", "starting"].map(|name| self.folder.join(name));
            for file in files {
                chown(file, Some(user), Some(group)).expect("a lock's file");
            }
            keeper.uid(user).gid(group);
        }
        keeper
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        keeper.process_group(0).spawn().expect("a keeper");
    }

    /// A program of the server, run as its user.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin.join(program));
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir(&self.folder);
        command
    }

    fn try_psql(&self, database: &str, sql: &str) -> Output {
        self.try_psql_as("postgres", database, sql)
    }

    fn try_psql_as(&self, role: &str, database: &str, sql: &str) -> Output {
        let mut psql = self.command("psql");
        psql.args([
            "-X",
            "-q",
            "-A",
            "-t",
            "-v",
            "ON_ERROR_STOP=1",
            "-U",
            role,
            "-h",
        ]);
        psql.arg(&self.folder).args(["-d", database, "-c", sql]);
        psql.output().expect("psql")
    }

    fn psql(&self, database: &str, sql: &str) -> String {
        let output = self.try_psql(database, sql);
        succeed(&output);
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

fn succeed(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
}

/// The ids of a user and its group.
fn account(name: &str) -> Option<(u32, u32)> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.first() == Some(&name))?
        .into_iter();
    let user = fields.nth(2)?.parse().ok()?;
    let group = fields.next()?.parse().ok()?;
    Some((user, group))
}
