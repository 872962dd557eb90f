//! Who calls, and for which tenant.
