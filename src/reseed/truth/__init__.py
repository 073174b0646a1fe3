"""Truth: what SAEs say of worlds whose states, planes or directions are known, each figure beside its nulls."""
