//! The schema's migrations, in the program itself: for both databases the same numbers and names.

use sqlx::SqlStr;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// A migration: its number, its name, its statements for SQLite and for PostgreSQL.
type Step = (i64, &'static str, &'static str, &'static str);

/// Reads the two files of a migration.
macro_rules! step {
    ($number:literal, $name:literal, $file:literal) => {
        (
            $number,
            $name,
            include_str!(concat!("../migrations/sqlite/", $file, ".sql")),
            include_str!(concat!("../migrations/postgres/", $file, ".sql")),
        )
    };
}

/// Every migration, in order.
const STEPS: [Step; 34] = [
    step!(1, "records", "0001_records"),
    step!(2, "store", "0002_store"),
    step!(3, "retention", "0003_retention"),
    step!(5, "job life", "0005_job_life"),
    step!(6, "changes", "0006_changes"),
    step!(7, "large data sets", "0007_large_data_sets"),
    step!(9, "requests", "0009_requests"),
    step!(10, "statistics", "0010_statistics"),
    step!(11, "serving", "0011_serving"),
    step!(12, "test evaluations", "0012_test_evaluations"),
    step!(14, "keys", "0014_keys"),
    step!(17, "audit and quotas", "0017_audit_and_quotas"),
    step!(18, "schema state", "0018_schema_state"),
    step!(19, "leases", "0019_leases"),
    step!(20, "backbones", "0020_backbones"),
    step!(32, "head choice", "0032_head_choice"),
    step!(33, "paused jobs", "0033_paused_jobs"),
    step!(40, "tenant terms", "0040_tenant_terms"),
    step!(41, "metering", "0041_metering"),
    step!(42, "erasures", "0042_erasures"),
    step!(43, "seals", "0043_seals"),
    step!(44, "change numbers", "0044_change_numbers"),
    step!(45, "replicas", "0045_replicas"),
    step!(46, "start tags", "0046_start_tags"),
    step!(47, "sketches", "0047_sketches"),
    step!(48, "sweeps", "0048_sweeps"),
    step!(49, "dataset versions", "0049_dataset_versions"),
    step!(51, "event folds", "0051_event_folds"),
    step!(52, "label kinds", "0052_label_kinds"),
    step!(54, "usage meters", "0054_usage_meters"),
    step!(56, "earlier checkpoints", "0056_earlier_checkpoints"),
    step!(58, "tenant limits", "0058_tenant_limits"),
    step!(59, "replica drains", "0059_replica_drains"),
    step!(61, "snapshot blobs", "0061_snapshot_blobs"),
];

/// The number of the newest migration.
#[cfg(feature = "postgres")]
pub(super) const NEWEST: i64 = STEPS[STEPS.len() - 1].0;

/// What brings a SQLite file of any release to the schema of this one.
pub(super) fn sqlite() -> Migrator {
    migrator(|(_, _, sqlite, _)| sqlite)
}

/// What brings a PostgreSQL database of any release to the schema of this one. A newer release may have been there before.
#[cfg(feature = "postgres")]
pub(super) fn postgres() -> Migrator {
    let mut migrator = migrator(|(_, _, _, postgres)| postgres);
    migrator.set_ignore_missing(true);
    migrator
}

fn migrator(statements: impl Fn(Step) -> &'static str) -> Migrator {
    let migrations = STEPS.map(|step| {
        let kind = MigrationType::Simple;
        let statements = SqlStr::from_static(statements(step));
        Migration::new(step.0, step.1.into(), kind, statements, false)
    });
    Migrator::with_migrations(migrations.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(database: &str) -> Vec<String> {
        let folder = format!(
            "{}/src/metadata/migrations/{database}",
            env!("CARGO_MANIFEST_DIR")
        );
        let files = std::fs::read_dir(folder).expect("the folder of migrations");
        let name = |file: std::io::Result<std::fs::DirEntry>| {
            let name = file.expect("a file").file_name();
            name.into_string().expect("UTF-8")
        };
        let mut files: Vec<String> = files.map(name).collect();
        files.sort();
        files
    }

    #[test]
    fn every_file_of_both_folders_is_a_migration() {
        let listed = STEPS.map(|(number, name, _, _)| {
            let name = name.replace(' ', "_");
            format!("{number:04}_{name}.sql")
        });
        assert_eq!(files("sqlite"), listed);
        assert_eq!(files("postgres"), listed);
    }
}
