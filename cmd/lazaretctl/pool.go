package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

// shownPool is what pool show answers as JSON.
type shownPool struct {
	api.Pool
	Names []api.Name `json:"names"`
}

// showPool shows a pool and what the names in its reach resolve to.
func (s *session) showPool() *cobra.Command {
	const path = "/api/v1/pools"
	return &cobra.Command{Use: "show NAME", Short: "Show a pool and what names in its reach resolve to", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete(path, "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			all, _, err := ask[[]api.Pool](cmd.Context(), s, http.MethodGet, path, nil)
			if err != nil {
				return err
			}
			names, _, err := ask[[]api.Name](cmd.Context(), s, http.MethodGet, path+"/"+url.PathEscape(args[0])+"/names", nil)
			if err != nil {
				return err
			}
			for _, p := range all {
				if p.Name == args[0] {
					raw, err := json.Marshal(shownPool{p, names})
					if err != nil {
						return err
					}
					return s.show(cmd, append(raw, '\n'), func(w io.Writer) { writePool(w, p, names) })
				}
			}
			return fmt.Errorf("pool %q was deleted this moment", args[0])
		}}
}

func writePool(w io.Writer, p api.Pool, names []api.Name) {
	fmt.Fprintf(w, "pool %s: %s %s, quarantine: %s, masquerade: %s\n", p.Name, prefix(p.IPv4), prefix(p.IPv6), yes(p.Quarantine), yes(p.Masquerade))
	fmt.Fprintf(w, "reach:  %s\n", dash(strings.Join(p.Reach, ", ")))
	fmt.Fprintf(w, "routes: %s\n", dash(strings.Join(p.Routes, ", ")))
	fmt.Fprintf(w, "dns:    %s, every name: %s\n", dash(joined(p.DNS)), yes(p.Forward))
	fmt.Fprintf(w, "allow:  %s\n", dash(joined(p.Allow)))
	for _, n := range names {
		fmt.Fprintf(w, "\n%s, answered: %s\n", n.Name, ago(n.Answered))
		if n.Problem != "" {
			fmt.Fprintf(w, "  problem: %s\n", n.Problem)
		}
		rows := [][]string{}
		for _, a := range n.Addresses {
			rows = append(rows, []string{a.Address.String(), yes(a.Open), yes(a.Current), ago(a.Since), a.Until.UTC().Format("2006-01-02 15:04:05Z"), dash(a.Refused)})
		}
		grid(w, "ADDRESS OPEN CURRENT SINCE UNTIL REFUSED", rows)
	}
}
