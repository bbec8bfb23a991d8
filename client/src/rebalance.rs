//! Calls about where replicas and leaderships are.
//!
//! Owns: the two questions to the planner. Must never: carry out what it plans.

use synod_proto::v1;
use synod_proto::v1::admin_client::AdminClient;

use crate::client::Client;
use crate::error::Result;
use crate::jobs::known;

impl Client {
    /// What the planner would do to the cluster as it is now: moves of replicas, leaders and splits, with what they are to change. Changes
    /// nothing.
    ///
    /// # Errors
    ///
    /// [`Error::TableNotFound`](crate::Error::TableNotFound); [`Error::InvalidArgument`](crate::Error::InvalidArgument) where a weight or
    /// `max_concurrent` is out of bounds.
    pub async fn plan_rebalance(&self, request: v1::PlanRebalanceRequest) -> Result<v1::PlanRebalanceReply> {
        let mut unsure = false;
        let planned = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| {
            let request = request.clone();
            async move { AdminClient::new(channel).plan_rebalance(request).await }
        });
        known(planned.await)
    }

    /// Which of these planned operations no longer apply, by their places, and why. Changes nothing. 64 may be asked about at a time.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`](crate::Error::InvalidArgument) where one makes no sense.
    pub async fn check_operations(&self, operations: Vec<v1::PlannedOperation>) -> Result<Vec<v1::StaleOperation>> {
        let request = v1::CheckOperationsRequest { operations };
        let mut unsure = false;
        let checked = self.any_node(self.caller.deadline(), &mut unsure, |channel, _| {
            let request = request.clone();
            async move { AdminClient::new(channel).check_operations(request).await }
        });
        Ok(known(checked.await)?.stale)
    }
}
