//! Random operations against a model that knows only what each vCPU is allowed to do.
