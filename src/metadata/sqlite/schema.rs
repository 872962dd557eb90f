//! The schema's migrations, in the program itself.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Every migration: its number, its name, its statements.
const MIGRATIONS: [(i64, &str, &str); 12] = [
    (1, "records", include_str!("../migrations/0001_records.sql")),
    (2, "store", include_str!("../migrations/0002_store.sql")),
    (
        3,
        "retention",
        include_str!("../migrations/0003_retention.sql"),
    ),
    (
        5,
        "job life",
        include_str!("../migrations/0005_job_life.sql"),
    ),
    (6, "changes", include_str!("../migrations/0006_changes.sql")),
    (
        7,
        "large data sets",
        include_str!("../migrations/0007_large_data_sets.sql"),
    ),
    (
        9,
        "requests",
        include_str!("../migrations/0009_requests.sql"),
    ),
    (
        10,
        "statistics",
        include_str!("../migrations/0010_statistics.sql"),
    ),
    (
        11,
        "serving",
        include_str!("../migrations/0011_serving.sql"),
    ),
    (
        12,
        "test evaluations",
        include_str!("../migrations/0012_test_evaluations.sql"),
    ),
    (14, "keys", include_str!("../migrations/0014_keys.sql")),
    (
        17,
        "audit and quotas",
        include_str!("../migrations/0017_audit_and_quotas.sql"),
    ),
];

/// What brings a database of any release to the schema of this one.
pub(super) fn migrator() -> Migrator {
    let migrations = MIGRATIONS.map(|(version, name, statements)| {
        let statements = SqlStr::from_static(statements);
        let kind = MigrationType::Simple;
        Migration::new(version, name.into(), kind, statements, false)
    });
    Migrator::with_migrations(migrations.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_folder_is_a_migration() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/metadata/migrations");
        let files = std::fs::read_dir(folder).expect("the folder of migrations");
        let mut files: Vec<String> = files
            .map(|file| {
                file.expect("a file")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        files.sort();
        let listed = MIGRATIONS.map(|(version, name, statements)| {
            let file = format!("{version:04}_{}.sql", name.replace(' ', "_"));
            let own = std::fs::read_to_string(format!("{folder}/{file}")).expect("the file");
            assert_eq!(own, statements, "{file}");
            file
        });
        assert_eq!(files, listed);
    }
}
