package main

import (
	"io"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

// devicePath is the path of something about one device.
func devicePath(name, what string) string {
	return "/api/v1/devices/" + url.PathEscape(name) + "/" + what
}

// tell sends what is told of a device and prints where it stands now.
func (s *session) tell(cmd *cobra.Command, method, name, what string, q any) error {
	p, raw, err := ask[api.Placed](cmd.Context(), s, method, devicePath(name, what), q)
	if err != nil {
		return err
	}
	return s.show(cmd, raw, func(w io.Writer) { showPlaced(w, name, p) })
}

func (s *session) deviceClear() *cobra.Command {
	var q api.WaiverRequest
	c := &cobra.Command{Use: "clear DEVICE RULE", Short: "Let a rule of a policy set not count for a device for a while", Args: cobra.ExactArgs(2),
		Example:           `  lazaretctl device clear alice-laptop baseline/disk --for 24h --why "new disk on its way"`,
		ValidArgsFunction: s.completeRule,
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Rule = args[1]
			return s.tell(cmd, http.MethodPost, args[0], "waivers", q)
		}}
	c.Flags().StringVar(&q.For, "for", "24h", "how long, 30 days at most")
	c.Flags().StringVar(&q.Why, "why", "", "reason, for the audit log and for the device's explanation")
	_ = c.MarkFlagRequired("why")
	return c
}

// completeRule offers devices, and then the rules that fail for the one chosen.
func (s *session) completeRule(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		return s.complete("/api/v1/devices", "name")(cmd, args, part)
	}
	e, _, err := ask[api.Explanation](cmd.Context(), s, http.MethodGet, devicePath(args[0], "explain"), nil)
	var out []string
	if err == nil && len(args) == 1 {
		for _, f := range e.Failing {
			out = append(out, f.Rule)
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp
}

func (s *session) deviceGroup() *cobra.Command {
	var q api.GroupsRequest
	c := &cobra.Command{Use: "group DEVICE", Short: "Replace a device's own groups", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		Example: "  lazaretctl device group alice-laptop --set finance,travel\n  lazaretctl device group alice-laptop --set ''   # none",
		RunE: func(cmd *cobra.Command, args []string) error {
			if q.Groups == nil {
				q.Groups = []string{}
			}
			return s.tell(cmd, http.MethodPut, args[0], "groups", q)
		}}
	c.Flags().StringSliceVar(&q.Groups, "set", nil, "the groups, with commas between")
	_ = c.MarkFlagRequired("set")
	return c
}

func (s *session) deviceSignIn() *cobra.Command {
	var q api.SessionRequest
	c := &cobra.Command{Use: "signin DEVICE", Short: "Say that a device's owner has authenticated", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.tell(cmd, http.MethodPost, args[0], "session", q)
		}}
	c.Flags().StringVar(&q.User, "user", "", "who; only the device's owner can")
	c.Flags().StringVar(&q.Life, "life", "", "how long the session stands, like 30m (default and most: the organization's)")
	c.Flags().StringVar(&q.How, "how", "", "how the user authenticated, for the audit log")
	_ = c.MarkFlagRequired("user")
	return c
}

func (s *session) deviceSignOut() *cobra.Command {
	return &cobra.Command{Use: "signout DEVICE", Short: "End the session of a device's user", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.tell(cmd, http.MethodDelete, args[0], "session", nil)
		}}
}

func (s *session) deviceHistory() *cobra.Command {
	since, limit := "", "100"
	c := &cobra.Command{Use: "history DEVICE", Short: "Show where a device stood, newest first", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			q := url.Values{"limit": {limit}}
			if since != "" {
				q.Set("since", since)
			}
			list, raw, err := ask[[]api.Move](cmd.Context(), s, http.MethodGet, devicePath(args[0], "history")+"?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showHistory(w, list) })
		}}
	c.Flags().StringVar(&since, "since", "", "only moves since then, like 2026-01-31T08:00:00Z")
	c.Flags().StringVar(&limit, "limit", limit, "how many, 1000 at most")
	return c
}

func showHistory(w io.Writer, list []api.Move) {
	rows := [][]string{}
	for _, m := range list {
		why := m.Reason
		if m.Why != "" {
			why += " (" + m.Why + ")"
		}
		rows = append(rows, []string{m.At.Local().Format("2006-01-02 15:04:05"), dash(m.From), m.To, dash(m.Pool), m.By, m.Action, why})
	}
	grid(w, "AT FROM TO POOL BY ACTION REASON", rows)
}
