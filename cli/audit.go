package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/credproxy/credproxy/audit"
	"github.com/spf13/cobra"
)

func newAuditCommand(o *options) *cobra.Command {
	cmd := newGroup(&cobra.Command{
		Use:   "audit",
		Short: "Check that the audit log is whole",
		Long: `audit looks after the audit log: audit.log in the state folder, a line of JSON for each request. docs/audit.md lists its
fields.`,
	})
	cmd.AddCommand(newAuditVerifyCommand(o))
	return cmd
}

func newAuditVerifyCommand(o *options) *cobra.Command {
	var anchors []string
	cmd := &cobra.Command{
		Use:        "verify [FILE...]",
		SuggestFor: []string{"check", "validate"},
		Short:      "Find lines of the audit log that were changed, removed, inserted or moved",
		Long: `verify reads the audit log with its old files, audit.log.4 to audit.log.1, and reports the first line that is not as it was
written. Each line names the hash of the one before it, so a change to one shows in all that follow. FILE names
copies that stand elsewhere: one stretch of the log, in any order.

Who can write to the state folder can make all of it anew. Keep the last anchor that verify prints where they cannot
write, and give it back with --anchor: then that line, and all before it, must still be there.

Exit status: 0 intact, 1 not.`,
		Example: `  credproxy audit verify
  credproxy audit verify --anchor 1024:b5bb9d80…
  credproxy audit verify backup/audit.log.2 backup/audit.log.1`,
		RunE: func(cmd *cobra.Command, files []string) error {
			return verifyAudit(cmd.OutOrStdout(), o, files, anchors)
		},
	}
	cmd.Flags().StringArrayVar(&anchors, "anchor", nil, "a `line` that must be there, as verify has printed it")
	return cmd
}

func verifyAudit(stdout io.Writer, o *options, files, anchors []string) error {
	var kept []audit.Anchor
	for _, text := range anchors {
		a, err := audit.ParseAnchor(text)
		if err != nil {
			return &failure{slug: slugUsage, text: "--anchor", next: "credproxy audit verify prints one", err: err}
		}
		kept = append(kept, a)
	}
	report, err := verifyFiles(o, files, kept)
	if _, broken := errors.AsType[*audit.Broken](err); broken {
		return &failure{slug: slugAudit, text: "the audit log is not as it was written", err: err,
			next: "what stands before that line is intact; compare the rest with a copy, if there is one"}
	}
	if errors.Is(err, fs.ErrNotExist) {
		return &failure{slug: slugAudit, text: "there is no audit log", next: "credproxy serve, or run, begins one", err: err}
	}
	if err != nil {
		return err
	}
	if report.Lines == 0 {
		_, err = fmt.Fprintln(stdout, "intact: no lines")
		return err
	}
	_, err = fmt.Fprintf(stdout, "intact: %s, in %s\nanchor: %s\n", plural(report.Lines, "line"), plural(len(report.Files), "file"), report.Last)
	return err
}

func verifyFiles(o *options, files []string, anchors []audit.Anchor) (audit.Report, error) {
	if len(files) > 0 {
		return audit.VerifyFiles(files, anchors...)
	}
	state, err := o.stateDir()
	if err != nil {
		return audit.Report{}, err
	}
	return audit.Verify(auditPath(state), anchors...)
}
