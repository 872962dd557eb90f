//! A fleet of real processes while everything fails that can: every answer is right or a refusal, and nothing that was acknowledged is lost.
//!
//! The short form is for every run of the tests; `FRAMESHIFT_FAULTS=full` lets each fault last and repeats it six times, or `FRAMESHIFT_FAULT_ROUNDS` times.

pub(crate) mod clock;
pub(crate) mod load;
mod trouble;
pub(crate) mod wire;

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::replicas::{Stand, is_full, signal};
use crate::server_process::Process;
use load::Load;
use trouble::Trouble;

/// Servers of the fleet.
const REPLICAS: usize = 3;

/// The servers of a stand by their places.
pub(crate) struct Fleet {
    stand: Arc<Stand>,
    processes: Vec<Option<Process>>,
}

impl Fleet {
    async fn start(stand: &Arc<Stand>) -> Self {
        let mut processes = Vec::new();
        if !stand.fill_cache("r2") {
            println!("skipped: a full disk of copies, which only root may make");
        }
        stand.put_ahead("r1");
        for place in 0..REPLICAS {
            processes.push(Some(stand.launch(&format!("r{place}"), &[])));
        }
        let fleet = Self {
            stand: Arc::clone(stand),
            processes,
        };
        for place in 0..REPLICAS {
            stand.open(place, fleet.process(place)).await;
        }
        fleet
    }

    fn process(&self, place: usize) -> &Process {
        self.processes[place].as_ref().expect("it runs")
    }

    /// Kills a server and starts it again.
    async fn kill(&mut self, place: usize, pause: Duration) {
        let process = self.processes[place].take().expect("it runs");
        // Callers that have the client go on to use it.
        signal(&process, Signal::KILL);
        let mut process = process;
        process.ended().await;
        self.stand.close(place);
        tokio::time::sleep(pause).await;
        let process = self.stand.launch(&format!("r{place}"), &[]);
        self.stand.open(place, &process).await;
        self.processes[place] = Some(process);
    }

    async fn stop(self) {
        for place in 0..REPLICAS {
            self.stand.close(place);
        }
        for (place, process) in self.processes.into_iter().flatten().enumerate() {
            let ended = process.terminate().await;
            let logs = self.stand.logs(&format!("r{place}"));
            assert_eq!(ended.code(), Some(0), "{logs}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_fails_answers_are_right_and_nothing_acknowledged_is_lost() {
    let Some(stand) = Stand::start(REPLICAS).await else {
        return;
    };
    let begun = Instant::now();
    let stand = Arc::new(stand);
    let mut fleet = Fleet::start(&stand).await;
    let load = Arc::new(Load::new(Arc::clone(&stand)).await);
    let callers = load.begin();
    println!("{:?}: the fleet is under load", begun.elapsed());
    let rounds = std::env::var("FRAMESHIFT_FAULT_ROUNDS").ok();
    let rounds = rounds.map(|own| own.parse().expect("a number"));
    let rounds = rounds.unwrap_or(if is_full() { 6 } else { 1 });
    for round in 0..rounds {
        for trouble in Trouble::ALL {
            trouble.happen(&mut fleet, round).await;
            trouble::recovers(&load).await;
            println!("{:?}: {trouble:?}: {}", begun.elapsed(), load.told());
            let died = callers.iter().find(|caller| caller.is_finished());
            assert!(died.is_none(), "a caller has failed");
        }
    }
    load.end();
    for caller in callers {
        caller.await.expect("a caller found a fault");
    }
    load.check(Duration::from_secs(120)).await;
    println!("{:?}: {}", begun.elapsed(), load.told());
    fleet.stop().await;
}
