package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"lazaret/internal/posture"
)

// posture shows what the agent would report; it needs no running agent and no enrollment.
func (s *session) posture() *cobra.Command {
	return &cobra.Command{Use: "posture", Short: "Show what this device would report of itself, and what it cannot tell", Args: cobra.NoArgs,
		Long: `Show what this device would report of itself, and what it cannot tell.

Run it as the user that the agent runs as, commonly root: others may read less. A fact that
is missing counts as not compliant where a policy asks for it.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			p := posture.Collect(cmd.Context())
			if s.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(p)
			}
			showPosture(cmd.OutOrStdout(), p)
			return nil
		}}
}

func showPosture(w io.Writer, p posture.Posture) {
	for _, name := range slices.Sorted(maps.Keys(p.Facts)) {
		fmt.Fprintf(w, "%-22s %s\n", name, p.Facts[name])
	}
	if len(p.Missing) == 0 {
		return
	}
	fmt.Fprintln(w, "\nnot told, wholly or in part:")
	for _, m := range p.Missing {
		fmt.Fprintf(w, "%-22s %s\n", m.Collector, m.Why)
	}
}
