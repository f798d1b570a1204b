package cli

import (
	"slices"
	"strings"

	"github.com/credproxy/credproxy/inject"
	"github.com/credproxy/credproxy/rules"
	"github.com/spf13/cobra"
)

// completeWith completes the values of a flag from a list.
func completeWith(cmd *cobra.Command, flag string, values []string) {
	err := cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
	if err != nil {
		panic("completion of --" + flag + ": " + err.Error()) // the flag does not exist
	}
}

// completeSecrets completes names of secrets: those that the rules name. The keyring is not asked, for it might ask
// back.
func completeSecrets(o *options) cobra.CompletionFunc {
	return completeFirst(o, func(r rules.Rule) []string {
		var names []string
		for _, ref := range r.Refs {
			if ref.Scheme == "keyring" {
				names = append(names, ref.Name)
			}
		}
		return names
	})
}

// completeHosts completes URLs with the hosts that the rules name.
func completeHosts(o *options) cobra.CompletionFunc {
	return completeFirst(o, func(r rules.Rule) []string {
		var urls []string
		for _, host := range r.Hosts {
			if !strings.HasPrefix(host, "*") {
				urls = append(urls, "https://"+host+"/")
			}
		}
		return urls
	})
}

// completeLogins completes names of rules for which a person signs in.
func completeLogins(o *options) cobra.CompletionFunc {
	return completeFirst(o, func(r rules.Rule) []string {
		if slices.Contains(r.Types, "oauth2_authorization_code") || slices.Contains(r.Types, "oauth2_device_code") {
			return []string{r.Name}
		}
		return nil
	})
}

// completeFirst completes the first argument with words from the rules.
func completeFirst(o *options, words func(rules.Rule) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
		path, err := o.rulesPath()
		if err != nil || len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		set, err := rules.Load(path, inject.Env{})
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		seen := map[string]bool{}
		var list []string
		for _, rule := range set.Rules() {
			for _, word := range words(rule) {
				if strings.HasPrefix(word, start) && !seen[word] {
					seen[word] = true
					list = append(list, word)
				}
			}
		}
		return list, cobra.ShellCompDirectiveNoFileComp
	}
}
