//! Findings about a data set as the API shows them.

use super::spec::signed;
use crate::library::{Checked, Finding, FindingKind};
use crate::proto::v1;
use crate::spec::Digest;

/// Converts the findings of a check.
pub(in crate::rpc) fn of_findings(checked: Checked, digest: Digest) -> v1::CheckDatasetResponse {
    v1::CheckDatasetResponse {
        findings: checked.findings.into_iter().map(of_finding).collect(),
        examples: signed(checked.examples),
        unseen: signed(checked.unseen),
        dataset_digest: digest.0.to_vec().into(),
    }
}

fn of_finding(finding: Finding) -> v1::Finding {
    let kind = match finding.kind {
        FindingKind::DuplicateAcrossLabels => v1::FindingKind::DuplicateAcrossLabels,
        FindingKind::DuplicateAcrossSplits => v1::FindingKind::DuplicateAcrossSplits,
        FindingKind::NearDuplicateAcrossSplits => v1::FindingKind::NearDuplicateAcrossSplits,
        FindingKind::Duplicate => v1::FindingKind::Duplicate,
        FindingKind::SceneAcrossSplits => v1::FindingKind::SceneAcrossSplits,
        FindingKind::FewClips => v1::FindingKind::FewClips,
        FindingKind::Imbalance => v1::FindingKind::Imbalance,
        FindingKind::SimilarLabels => v1::FindingKind::SimilarLabels,
        FindingKind::ToldBySize => v1::FindingKind::ToldBySize,
        FindingKind::ToldByLength => v1::FindingKind::ToldByLength,
        FindingKind::ToldByCodec => v1::FindingKind::ToldByCodec,
        FindingKind::ToldByFrameRate => v1::FindingKind::ToldByFrameRate,
        FindingKind::ToldTogether => v1::FindingKind::ToldTogether,
    };
    let videos = finding.videos.iter();
    v1::Finding {
        kind: kind.into(),
        text: finding.text,
        count: signed(finding.count),
        labels: finding.labels,
        videos: videos.map(|video| format!("videos/{video}")).collect(),
    }
}
