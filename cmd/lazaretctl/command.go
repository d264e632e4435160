package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/spf13/cobra"

	"lazaret/internal/console/api"
)

// kinds are what a device can be ordered to do.
var kinds = []string{"lock", "wipe", "erase", "renew", "rotate", "pool", "gateway", "notify"}

func (s *session) command() *cobra.Command {
	c := &cobra.Command{Use: "command", Aliases: []string{"cmd"}, Short: "Commands to devices: lock, wipe, renew, notify and others"}
	c.AddCommand(s.commandSend(), s.commandList(), s.commandShow(), s.commandCancel())
	return c
}

// sending is what command send takes.
type sending struct {
	api.CommandRequest
	text, stage string
	all, wait   bool
	confirm     int
}

func (s *session) commandSend() *cobra.Command {
	var q sending
	c := &cobra.Command{
		Use: "send DEVICE lock|wipe|erase|renew|rotate|pool|gateway|notify", Short: "Order a device, or many, to do something",
		Long: `Order a device, or many, to do something.

  lock     lock every user's session
  wipe     remove all that enrollment gave: keys, certificate, settings, tunnel, routes, DNS
           servers. The device is quarantined at once, and revoked when it has done so
  erase    run the program that the device's own administrator named for erasing all of it
  renew    renew the certificate
  rotate   change the tunnel's key, and the certificate with it
  pool     read anew where the device belongs
  gateway  read the list of gateways anew, and connect by it
  notify   show --text to the user

With --stage or --all in the place of DEVICE, the order goes to many; --confirm then says how
many you expect, and without it, or if it is another number, nothing is sent.`,
		Example: "  lazaretctl command send alice-laptop lock --why \"left in a train\" --wait\n" +
			"  lazaretctl command send --stage quarantined notify --text \"Please update.\" --confirm 12",
		Args: func(cmd *cobra.Command, args []string) error {
			if q.all || q.stage != "" {
				return cobra.ExactArgs(1)(cmd, args)
			}
			return cobra.ExactArgs(2)(cmd, args)
		},
		ValidArgsFunction: func(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
			if len(args) == 1 || q.all || q.stage != "" {
				return kinds, cobra.ShellCompDirectiveNoFileComp
			}
			return s.complete("/api/v1/devices", "name")(cmd, args, part)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			q.Kind = args[len(args)-1]
			if q.text != "" {
				q.Args = map[string]string{"text": q.text}
			}
			if len(args) == 1 {
				return s.sendMany(cmd, q)
			}
			return s.sendOne(cmd, args[0], q)
		},
	}
	f := c.Flags()
	f.StringVar(&q.Why, "why", "", "reason, for the audit log")
	f.StringVar(&q.text, "text", "", "notify: what the user is told")
	f.StringVar(&q.Life, "life", "", "how long the command may wait for the device, like 24h (default 7 days)")
	f.BoolVar(&q.wait, "wait", false, "wait until the device has answered")
	f.StringVar(&q.stage, "stage", "", "to all devices of this stage")
	f.BoolVar(&q.all, "all", false, "to all devices that are not revoked")
	f.IntVar(&q.confirm, "confirm", 0, "how many devices you expect, with --stage or --all")
	_ = c.RegisterFlagCompletionFunc("stage", cobra.FixedCompletions([]string{"pending", "quarantined", "routed", "blocked"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

func commandsPath(device string) string {
	return "/api/v1/devices/" + url.PathEscape(device) + "/commands"
}

func (s *session) sendOne(cmd *cobra.Command, device string, q sending) error {
	c, raw, err := ask[api.Command](cmd.Context(), s, http.MethodPost, commandsPath(device), q.CommandRequest)
	if err != nil {
		return err
	}
	if q.wait {
		if c, raw, err = s.await(cmd.Context(), cmd.ErrOrStderr(), c); err != nil {
			return err
		}
	}
	if err := s.show(cmd, raw, func(w io.Writer) { showCommand(w, c) }); err != nil {
		return err
	}
	if q.wait && c.State != "done" {
		return fmt.Errorf("%s %s: %s", c.Kind, c.State, dash(c.Detail))
	}
	return nil
}

// await asks until the command is over, and shows on w how far it is.
func (s *session) await(ctx context.Context, w io.Writer, c api.Command) (api.Command, []byte, error) {
	begin, state := time.Now(), ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		now, raw, err := ask[api.Command](ctx, s, http.MethodGet, commandsPath(c.Device)+"/"+url.PathEscape(c.ID), nil)
		if err != nil {
			return now, raw, err
		}
		if now.State != state {
			state = now.State
			fmt.Fprintf(w, "%6s  %s %s: %s\n", time.Since(begin).Round(100*time.Millisecond), now.Name, now.Kind, stateText(now))
		}
		if now.Over {
			return now, raw, nil
		}
		select {
		case <-ctx.Done():
			return now, raw, ctx.Err()
		case <-tick.C:
		}
	}
}

// stateText says for a person how far a command is.
func stateText(c api.Command) string {
	text := map[string]string{
		"queued": "waits for the device to come for it", "sent": "the device has it", "begun": "the device has begun",
		"unknown": "begun, and how it ended is not known",
	}
	return cmp.Or(text[c.State], c.State)
}

func (s *session) sendMany(cmd *cobra.Command, q sending) error {
	list, _, err := ask[[]api.Device](cmd.Context(), s, http.MethodGet, "/api/v1/devices?stage="+url.QueryEscape(q.stage), nil)
	if err != nil {
		return err
	}
	var some []api.Device
	for _, d := range list {
		if d.Stage != "revoked" {
			some = append(some, d)
		}
	}
	if len(some) != q.confirm || len(some) == 0 {
		return fmt.Errorf("this is for %d devices: add --confirm %d if that is what you mean; nothing was sent", len(some), len(some))
	}
	if q.wait {
		return errors.New("--wait is for one device: look with lazaretctl command list DEVICE")
	}
	var faults []error
	for _, d := range some {
		c, raw, err := ask[api.Command](cmd.Context(), s, http.MethodPost, commandsPath(d.ID), q.CommandRequest)
		if err == nil {
			err = s.show(cmd, raw, func(w io.Writer) { fmt.Fprintf(w, "%s %s %s %s\n", c.ID, d.Name, c.Kind, c.State) })
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("%s: %w", d.Name, err))
		}
	}
	if len(faults) > 0 {
		return fmt.Errorf("%d of %d devices were not ordered: %w", len(faults), len(some), errors.Join(faults...))
	}
	return nil
}

func (s *session) commandList() *cobra.Command {
	return &cobra.Command{Use: "list DEVICE", Short: "List a device's commands and what became of them", Args: cobra.ExactArgs(1), ValidArgsFunction: s.complete("/api/v1/devices", "name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			list, raw, err := ask[[]api.Command](cmd.Context(), s, http.MethodGet, commandsPath(args[0]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				rows := [][]string{}
				for _, c := range list {
					rows = append(rows, []string{c.ID, c.Kind, c.State, ago(c.Issued), ago(c.Answered), c.By, dash(cmp.Or(c.Detail, c.Why))})
				}
				grid(w, "ID KIND STATE ISSUED ANSWERED BY DETAIL", rows)
			})
		}}
}

func (s *session) commandShow() *cobra.Command {
	return &cobra.Command{Use: "show DEVICE COMMAND", Short: "Show one command", Args: cobra.ExactArgs(2), ValidArgsFunction: s.completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, raw, err := ask[api.Command](cmd.Context(), s, http.MethodGet, commandsPath(args[0])+"/"+url.PathEscape(args[1]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showCommand(w, c) })
		}}
}

func (s *session) commandCancel() *cobra.Command {
	return &cobra.Command{Use: "cancel DEVICE COMMAND", Short: "Take a command back that the device does not have yet", Args: cobra.ExactArgs(2), ValidArgsFunction: s.completeCommand,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, raw, err := ask[api.Command](cmd.Context(), s, http.MethodDelete, commandsPath(args[0])+"/"+url.PathEscape(args[1]), nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showCommand(w, c) })
		}}
}

// completeCommand offers devices, then the commands of one.
func (s *session) completeCommand(cmd *cobra.Command, args []string, part string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 1 {
		return s.complete(commandsPath(args[0]), "id")(cmd, args, part)
	}
	return s.complete("/api/v1/devices", "name")(cmd, args, part)
}

func showCommand(w io.Writer, c api.Command) {
	for _, row := range [][2]string{
		{"id", c.ID}, {"device", c.Name}, {"kind", c.Kind}, {"text", c.Args["text"]}, {"state", stateText(c)}, {"detail", c.Detail}, {"why", c.Why},
		{"by", c.By}, {"issued", ago(c.Issued)}, {"expires", ago(c.Expires)}, {"sent", ago(c.Sent)}, {"answered", ago(c.Answered)},
	} {
		if row[1] != "" {
			fmt.Fprintf(w, "%-9s %s\n", row[0], row[1])
		}
	}
}
