package main

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

const (
	alertsPath  = "/api/v1/alerts"
	outletsPath = "/api/v1/outlets"
)

func (s *session) alert() *cobra.Command {
	c := &cobra.Command{Use: "alert", Short: "What a person should know of, and where it is told"}
	c.AddCommand(s.alertList(), s.alertAct("ack", "acknowledge", "Say that somebody looks after an alert"),
		s.alertAct("resolve", "resolve", "Close an alert; it is raised again if its condition is found again"), s.outlet())
	return c
}

func (s *session) alertList() *cobra.Command {
	all := false
	c := &cobra.Command{Use: "list", Short: "List alerts, the worst first", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			path := alertsPath
			if !all {
				path += "?state=open"
			}
			list, raw, err := ask[[]api.Alert](cmd.Context(), s, http.MethodGet, path, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showAlerts(w, list) })
		}}
	c.Flags().BoolVar(&all, "all", false, "also those that are resolved, of the last 30 days")
	return c
}

func showAlerts(w io.Writer, list []api.Alert) {
	if len(list) == 0 {
		fmt.Fprintln(w, "no alerts")
		return
	}
	for i, a := range list {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%-8s %s\n  %s\n", strings.ToUpper(a.Severity), a.ID, a.Text)
		state := fmt.Sprintf("%s since %s", a.State, a.Since.Local().Format(time.DateTime))
		if a.Count > 1 {
			state += fmt.Sprintf(", for the %dth time", a.Count)
		}
		if a.By != "" {
			state += fmt.Sprintf("; %s by %s at %s", a.State, a.By, a.At.Local().Format(time.DateTime))
		}
		if a.Why != "" {
			state += ": " + a.Why
		}
		fmt.Fprintf(w, "  %s\n", state)
		if a.Remedy != "" && a.State != "resolved" {
			fmt.Fprintf(w, "  to do: %s\n", a.Remedy)
		}
	}
}

func (s *session) alertAct(use, action, short string) *cobra.Command {
	q := api.AlertAction{Action: action}
	c := &cobra.Command{Use: use + " ALERT", Short: short, Args: cobra.ExactArgs(1),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			list, _, err := ask[[]api.Alert](cmd.Context(), s, http.MethodGet, alertsPath+"?state=open", nil)
			if err != nil {
				return nil, cobra.ShellCompDirectiveError
			}
			var ids []string
			for _, a := range list {
				ids = append(ids, a.ID+"\t"+a.Text)
			}
			return ids, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q.ID = args[0]
			a, raw, err := ask[api.Alert](cmd.Context(), s, http.MethodPost, alertsPath, q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showAlerts(w, []api.Alert{a}) })
		}}
	c.Flags().StringVar(&q.Why, "why", "", "a reason, for the audit log")
	return c
}

func (s *session) outlet() *cobra.Command {
	c := &cobra.Command{Use: "outlet", Short: "Where alerts are told: by mail and to syslog servers"}
	list := &cobra.Command{Use: "list", Short: "List outlets", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			all, raw, err := ask[[]api.Outlet](cmd.Context(), s, http.MethodGet, outletsPath, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showOutlets(w, all) })
		}}
	test := &cobra.Command{Use: "test NAME", Short: "Send a message that says that it is a test", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[struct{}](cmd.Context(), s, http.MethodPost, outletsPath+"/"+url.PathEscape(args[0])+"/test", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintf(w, "sent by %s: see whether it arrives\n", args[0]) })
		}}
	remove := &cobra.Command{Use: "remove NAME", Short: "Delete an outlet and its password", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			_, raw, err := ask[struct{}](cmd.Context(), s, http.MethodDelete, outletsPath+"/"+url.PathEscape(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintf(w, "removed %s\n", args[0]) })
		}}
	c.AddCommand(list, s.outletSet(), test, remove)
	return c
}

func (s *session) outletSet() *cobra.Command {
	var q api.OutletRequest
	var passwordFile, rootsFile string
	c := &cobra.Command{Use: "set NAME", Short: "Create an outlet or change it", Args: cobra.ExactArgs(1),
		Example: `  lazaretctl alert outlet set ops --url smtps://mail.example.com --from lazaret@example.com --to ops@example.com --user lazaret --password-file -
  lazaretctl alert outlet set siem --url syslog+tls://log.example.com --least info`,
		RunE: func(cmd *cobra.Command, args []string) error {
			all, _, err := ask[[]api.Outlet](cmd.Context(), s, http.MethodGet, outletsPath, nil)
			if err != nil {
				return err
			}
			for _, o := range all {
				if o.Name == args[0] {
					q = changedOutlet(cmd, o, q)
				}
			}
			if q.Password, err = secretFile(passwordFile); err != nil {
				return err
			}
			if rootsFile != "" {
				roots, err := os.ReadFile(rootsFile)
				if err != nil {
					return fmt.Errorf("reading certificates: %w", err)
				}
				q.Roots = string(roots)
			}
			o, raw, err := ask[api.Outlet](cmd.Context(), s, http.MethodPut, outletsPath+"/"+url.PathEscape(args[0]), q)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				showOutlets(w, []api.Outlet{o})
				fmt.Fprintf(w, "try it: lazaretctl alert outlet test %s\n", o.Name)
			})
		}}
	f := c.Flags()
	f.StringVar(&q.URL, "url", "", "smtps://HOST, smtp://HOST (always with STARTTLS) or syslog+tls://HOST")
	f.StringVar(&q.From, "from", "", "mail: the sender's address")
	f.StringSliceVar(&q.To, "to", nil, "mail: the receivers' addresses")
	f.StringVar(&q.User, "user", "", "mail: name to sign in with")
	f.StringVar(&passwordFile, "password-file", "", "mail: file with the password to sign in with, - for standard input")
	f.StringVar(&rootsFile, "roots-file", "", "PEM file of certificates that the server's chains to (default: the system's)")
	f.StringVar(&q.Least, "least", "", "severity from which on it is told: info, warning (default) or critical")
	_ = c.RegisterFlagCompletionFunc("least", cobra.FixedCompletions([]string{"info", "warning", "critical"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// changedOutlet is an outlet as it is, with what the flags say.
func changedOutlet(cmd *cobra.Command, o api.Outlet, flags api.OutletRequest) api.OutletRequest {
	q := api.OutletRequest{URL: o.URL, From: o.From, To: o.To, User: o.User, Least: o.Least, Roots: o.Roots, Revision: o.Revision}
	for flag, apply := range map[string]func(){
		"url": func() { q.URL = flags.URL }, "from": func() { q.From = flags.From }, "to": func() { q.To = flags.To },
		"user": func() { q.User = flags.User }, "least": func() { q.Least = flags.Least },
	} {
		if cmd.Flags().Changed(flag) {
			apply()
		}
	}
	return q
}

func showOutlets(w io.Writer, all []api.Outlet) {
	if len(all) == 0 {
		fmt.Fprintln(w, "no outlets: alerts are listed, and told nobody")
		return
	}
	for _, o := range all {
		fmt.Fprintf(w, "%-12s %s from %s on", o.Name, o.URL, o.Least)
		if len(o.To) > 0 {
			fmt.Fprintf(w, ", to %s", strings.Join(o.To, ", "))
		}
		fmt.Fprintln(w)
	}
}
