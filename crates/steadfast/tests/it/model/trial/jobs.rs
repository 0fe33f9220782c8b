//! Activities and sessions: queued, claimed, acknowledged, given back, renewed.

use std::time::Duration;

use duroxide::providers::{SessionFetchConfig, TagFilter, WorkItem};

use super::turns::queued;
use super::{Claim, Difference, Trial, back, outcome, same, timed, unexpected};
use crate::model::command::{Span, Tag, Takes};
use crate::model::reference::{Call, Job, Moment, Session, Sure};

fn filter(takes: Takes) -> TagFilter {
    match takes {
        Takes::Default => TagFilter::DefaultOnly,
        Takes::Gpu => TagFilter::tags(["gpu"]),
        Takes::Both => TagFilter::default_and(["gpu"]),
        Takes::Any => TagFilter::Any,
    }
}

impl Trial {
    fn owner(&self, caller: usize) -> String {
        format!("{}owner{caller}", self.prefix)
    }

    pub(super) async fn queue_job(
        &mut self,
        caller: usize,
        instance: u8,
        job: crate::model::command::Job,
    ) -> Result<(), Difference> {
        let (id, input) = (self.id(instance), self.fresh());
        if !self.reference.instances.get(&id).is_some_and(|instance| instance.named) {
            return Ok(());
        }
        let item = WorkItem::ActivityExecute {
            instance: id,
            execution_id: 1,
            id: self.serial,
            name: "work".to_owned(),
            input,
            session_id: job.session.map(|which| self.session(which)),
            tag: (job.tag == Tag::Gpu).then(|| "gpu".to_owned()),
        };
        self.callers[caller]
            .enqueue_for_worker(item.clone())
            .await
            .map_err(unexpected)?;
        self.reference.jobs.push(queued(item));
        Ok(())
    }

    pub(super) async fn fetch_job(
        &mut self,
        caller: usize,
        lease: Span,
        session: Option<Span>,
        takes: Takes,
    ) -> Result<(), Difference> {
        let owner = self.owner(caller);
        let config = session.map(|span| SessionFetchConfig {
            owner_id: owner.clone(),
            lock_timeout: span.time(),
        });
        let filter = filter(takes);
        let fetch = self.callers[caller].fetch_work_item(lease.time(), Duration::ZERO, config.as_ref(), &filter);
        let (fetched, call) = timed(fetch).await;
        let asks = session.map(|_| owner.as_str());
        let takeable = |job: &Job| self.reference.takeable(job, asks, takes, call);
        let Some((item, token, attempts)) = fetched.map_err(unexpected)? else {
            let missed = self.reference.jobs.iter().find(|job| takeable(job) == Sure::Yes);
            return missed.map_or(Ok(()), |job| Err(format!("nothing was found, but {job:?} is due")));
        };
        let place = self.reference.jobs.iter().position(|job| job.item == item);
        let place = place.ok_or_else(|| format!("{item:?} is not queued"))?;
        if takeable(&self.reference.jobs[place]) == Sure::No {
            return Err(format!(
                "{item:?} was handed over and may not be: {:?}",
                self.reference.sessions
            ));
        }
        let number = self.jobs.len();
        let keeps_apart = self.reference.keeps_apart();
        let job = &mut self.reference.jobs[place];
        job.attempts += 1;
        job.claim = Some(number);
        job.available = Some(Moment::after(call, lease.time()));
        job.claims += 1;
        if keeps_apart && attempts + 1 == job.attempts {
            // Its lease ended beside something that is kept apart.
            job.attempts = attempts;
        }
        same("attempts", &attempts, &job.attempts)?;
        if let (Some(session), Some(span)) = (&job.session, session) {
            let until = Moment::after(call, span.time());
            self.reference
                .sessions
                .insert(session.clone(), Session { owner, until });
        }
        self.jobs.push(Claim {
            token,
            instance: job.instance.clone(),
            execution: job.execution,
            next_event: job.id,
            begins: false,
            items: vec![item],
        });
        Ok(())
    }

    fn claimed(&mut self, number: usize) -> Option<&mut Job> {
        self.reference.jobs.iter_mut().find(|job| job.claim == Some(number))
    }

    fn held(&mut self, number: usize, call: Call) -> Sure {
        self.claimed(number).map_or(Sure::No, |job| job.holds(number, call))
    }

    pub(super) async fn ack_job(&mut self, caller: usize, claim: u8, completes: bool) -> Result<(), Difference> {
        let Some(number) = back(&self.jobs, claim) else {
            return Ok(());
        };
        let result = self.fresh();
        let claim = &self.jobs[number];
        let completion = completes.then(|| WorkItem::ActivityCompleted {
            instance: claim.instance.clone(),
            execution_id: claim.execution,
            id: claim.next_event,
            result,
        });
        let instance = claim.instance.clone();
        let ack = self.callers[caller].ack_work_item(&claim.token, completion.clone());
        let (answer, call) = timed(ack).await;
        let held = self.held(number, call);
        if outcome(&answer, held)? {
            self.reference.jobs.retain(|job| job.claim != Some(number));
            if let Some(completion) = completion {
                self.reference.send(&instance, completion, None);
            }
        }
        Ok(())
    }

    pub(super) async fn abandon_job(
        &mut self,
        caller: usize,
        claim: u8,
        delay: Option<Span>,
        ignore: bool,
    ) -> Result<(), Difference> {
        let Some(number) = back(&self.jobs, claim) else {
            return Ok(());
        };
        let abandon = self.callers[caller].abandon_work_item(&self.jobs[number].token, delay.map(Span::time), ignore);
        let (answer, call) = timed(abandon).await;
        let job = self.claimed(number);
        let current = job.as_ref().map_or(Sure::No, |job| job.claimed(call));
        if outcome(&answer, current)? {
            let job = job.expect("it was just there");
            job.claim = None;
            job.attempts -= u32::from(ignore);
            job.available = delay.map(|delay| Moment::after(call, delay.time()));
        }
        Ok(())
    }

    pub(super) async fn renew_job(&mut self, caller: usize, claim: u8, lease: Span) -> Result<(), Difference> {
        let Some(number) = back(&self.jobs, claim) else {
            return Ok(());
        };
        let renew = self.callers[caller].renew_work_item_lock(&self.jobs[number].token, lease.time());
        let (answer, call) = timed(renew).await;
        let held = self.held(number, call);
        if outcome(&answer, held)? {
            self.claimed(number).expect("it was just there").available = Some(Moment::after(call, lease.time()));
        }
        Ok(())
    }

    pub(super) async fn renew_sessions(&mut self, caller: usize, lease: Span) -> Result<(), Difference> {
        let owner = self.owner(caller);
        let owners = [owner.as_str()];
        let renew = self.callers[caller].renew_session_lock(&owners, lease.time(), Span::Long.time());
        let (renewed, call) = timed(renew).await;
        let until = Moment::after(call, lease.time());
        self.reference
            .renew_sessions(&owner, call, until, renewed.map_err(unexpected)?)
    }
}
