package rules

func flaws(string) []Flaw { return nil }
