package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"lazaret/firewall"
	"lazaret/internal/config"
	"lazaret/internal/plane"
)

func firewallCommand(path *string) *cobra.Command {
	c := &cobra.Command{Use: "firewall", Short: "This host's own rules at the running data plane: try, confirm, take back, show"}
	c.AddCommand(tryCommand(path),
		hostCommand(path, "confirm", "Keep the rules that are being tried, also across restarts", plane.ConfirmHost),
		hostCommand(path, "revert", "Take the rules that are being tried back at once", plane.RevertHost),
		hostCommand(path, "show", "Print the rules in force, and when they are taken back", plane.ShowHost),
	)
	return c
}

func tryCommand(path *string) *cobra.Command {
	var d time.Duration
	var asJSON bool
	c := &cobra.Command{
		Use: "try", Args: cobra.NoArgs, Short: "Put the configuration's host rules in force, and back again unless they are confirmed in time",
		Long: `Try reads the configuration file anew and puts its host rules in force at the running data
plane. Unless "lazaretd firewall confirm" comes in time, the data plane takes them back by
itself, also when this session is gone. Connections that are open stay open either way:
open a new one before you confirm.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := config.Load(*path)
			if err != nil {
				return err
			}
			s, err := plane.TryHost(cmd.Context(), c, d)
			return showHost(cmd, c, s, err, asJSON)
		},
	}
	c.Flags().DurationVar(&d, "for", 2*time.Minute, "how long, in whole seconds")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func hostCommand(path *string, use, short string, ask func(context.Context, config.Config) (plane.HostState, error)) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{Use: use, Short: short, Args: cobra.NoArgs, RunE: func(cmd *cobra.Command, _ []string) error {
		c, err := config.Load(*path)
		if err != nil {
			return err
		}
		s, err := ask(cmd.Context(), c)
		return showHost(cmd, c, s, err, asJSON)
	}}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

// showHost prints how things stand; err is the request's own.
func showHost(cmd *cobra.Command, c config.Config, s plane.HostState, err error, asJSON bool) error {
	if err != nil {
		return err
	}
	view := hostView{
		In: serviceTexts(s.InForce.In, "from"), Out: serviceTexts(s.InForce.Out, "to"), Confirmed: s.Until.IsZero(),
		FileDiffers: !plane.ConfiguredHost(c).Equal(s.InForce),
	}
	if !view.Confirmed {
		view.RevertAt = s.Until
	}
	if asJSON {
		return json.NewEncoder(cmd.OutOrStdout()).Encode(view)
	}
	view.print(cmd.OutOrStdout())
	return nil
}

// hostView is the output.
type hostView struct {
	In          []string  `json:"in"`
	Out         []string  `json:"out"`
	Confirmed   bool      `json:"confirmed"`
	RevertAt    time.Time `json:"revert_at,omitzero"`
	FileDiffers bool      `json:"file_differs"` // the configuration says something else than what is in force
}

func (v hostView) print(w io.Writer) {
	for _, x := range []struct {
		what string
		list []string
	}{{"in", v.In}, {"out", v.Out}} {
		if len(x.list) == 0 {
			fmt.Fprintf(w, "%-4s nothing\n", x.what)
		}
		for i, s := range x.list {
			if i > 0 {
				x.what = ""
			}
			fmt.Fprintf(w, "%-4s %s\n", x.what, s)
		}
	}
	if v.Confirmed {
		fmt.Fprintln(w, "confirmed")
	} else {
		fmt.Fprintf(w, "on trial: taken back in %s, at %s, unless you run lazaretd firewall confirm\n",
			time.Until(v.RevertAt).Round(time.Second), v.RevertAt.Format(time.TimeOnly))
	}
	if v.FileDiffers {
		fmt.Fprintln(w, "the configuration file says otherwise: lazaretd firewall try")
	}
}

func serviceTexts(list []firewall.Service, word string) []string {
	out := []string{}
	for _, s := range list {
		out = append(out, s.Text(word))
	}
	return out
}
