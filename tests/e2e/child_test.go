package e2e

const childEnv = "CONCORD_E2E_CHILD"

func runChild(string) int { return 1 }
