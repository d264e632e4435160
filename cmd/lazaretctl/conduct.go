package main

import (
	"fmt"
	"io"
	"net/http"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const conductPath = "/api/v1/conduct"

func (s *session) conduct() *cobra.Command {
	c := &cobra.Command{Use: "conduct", Short: "How the organization treats its devices as a whole"}
	show := &cobra.Command{Use: "show", Short: "Show it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, raw, err := ask[api.Conduct](cmd.Context(), s, http.MethodGet, conductPath, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showConduct(w, v) })
		}}
	c.AddCommand(show, s.conductSet())
	return c
}

func (s *session) conductSet() *cobra.Command {
	var q api.Conduct
	set := &cobra.Command{Use: "set", Short: "Change it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			v, _, err := ask[api.Conduct](cmd.Context(), s, http.MethodGet, conductPath, nil)
			if err != nil {
				return err
			}
			for flag, apply := range map[string]func(){
				"strict": func() { v.Strict = q.Strict }, "alert-after": func() { v.AlertAfter = q.AlertAfter }, "act-after": func() { v.ActAfter = q.ActAfter },
				"on-inactive": func() { v.OnInactive = q.OnInactive }, "session-life": func() { v.SessionLife = q.SessionLife },
			} {
				if cmd.Flags().Changed(flag) {
					apply()
				}
			}
			v, raw, err := ask[api.Conduct](cmd.Context(), s, http.MethodPut, conductPath, v)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showConduct(w, v) })
		}}
	f := set.Flags()
	f.BoolVar(&q.Strict, "strict", false, "only policy sets marked stig count, every device needs one, and sessions are short")
	f.StringVar(&q.AlertAfter, "alert-after", "", "tell of a device that was silent for so long, like 21d")
	f.StringVar(&q.ActAfter, "act-after", "", "act on a device that was silent for so long, like 90d")
	f.StringVar(&q.OnInactive, "on-inactive", "", "what is done then: wipe, block or report")
	f.StringVar(&q.SessionLife, "session-life", "", "how long a user's sign-in opens a pool that asks for one, like 2h")
	_ = set.RegisterFlagCompletionFunc("on-inactive", cobra.FixedCompletions([]string{"wipe", "block", "report"}, cobra.ShellCompDirectiveNoFileComp))
	return set
}

func showConduct(w io.Writer, v api.Conduct) {
	for _, row := range [][2]string{
		{"strict", yes(v.Strict)}, {"alert after", v.AlertAfter}, {"act after", v.ActAfter}, {"on inactive", v.OnInactive}, {"session life", v.SessionLife},
	} {
		fmt.Fprintf(w, "%-13s %s\n", row[0], row[1])
	}
}
