package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"lazaret/appliance"
	"lazaret/internal/console/api"
)

const machinePath = "/api/v1/machine"

// machine is about an appliance under the gateway.
func (s *session) machine() *cobra.Command {
	c := &cobra.Command{Use: "machine", Short: "The machine under the gateway, where it is an appliance"}
	c.AddCommand(s.machineStatus(), s.machineNetwork(), s.machineUpdate(), s.machineUpdates(), s.machineLog(),
		s.machinePassphrase(), s.machineSeal(), s.machineRecovery(), s.machineClock(), s.machineCheck(),
		s.machinePower("reboot", "Restart the machine", true), s.machinePower("poweroff", "Turn the machine off", false),
		s.machinePower("rollback", "Start the version before, and this one no more", true), s.machineReset())
	return c
}

func (s *session) machineStatus() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Versions, slots, links, disk, clock and what is wrong", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			m, raw, err := ask[api.Machine](cmd.Context(), s, http.MethodGet, machinePath, nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { showMachine(w, m.Status) })
		}}
}

func showMachine(w io.Writer, st appliance.Status) {
	line := func(name, format string, args ...any) {
		fmt.Fprintf(w, "%-9s %s\n", name, fmt.Sprintf(format, args...))
	}
	line("stage", "%s, since %s", st.Stage, ago(st.Booted))
	line("version", "%s", st.Version)
	u := st.Update
	switch {
	case u.Staged != "":
		line("update", "version %s is tried at the next start", u.Staged)
	case u.Available != "":
		line("update", "version %s is there, since %s", u.Available, ago(u.Since))
	}
	if u.Last != "" {
		line("last", "%s (%s)", u.Last, ago(u.LastAt))
	}
	if u.Channel != "" {
		line("channel", "%s, answered %s", u.Channel, ago(u.Checked))
	}
	if u.Problem != "" {
		line("", "%s", u.Problem)
	}
	protection := "not encrypted"
	if st.Disk.Encrypted {
		protection = "key: " + string(st.Disk.Protection)
	}
	line("disk", "%s free of %s, %s", bytesText(st.Disk.Free), bytesText(st.Disk.Size), protection)
	line("memory", "%s available of %s", bytesText(st.Memory.Available), bytesText(st.Memory.Size))
	clock := "not synchronized"
	if st.Clock.Synchronized {
		clock = fmt.Sprintf("by %s, %s, off by %.3f s", st.Clock.Server, ago(st.Clock.At), st.Clock.Offset)
	}
	line("clock", "%s", strings.TrimSuffix(clock+"; "+st.Clock.Problem, "; "))
	for _, p := range st.Problems {
		line("problem", "%s", p)
	}
	var rows [][]string
	for _, x := range st.Slots {
		state := "found well"
		if !x.Blessed {
			state = fmt.Sprintf("%d tries left, %d made", x.Left, x.Tried)
		}
		rows = append(rows, []string{x.Version, yes(x.Booted), state, x.File})
	}
	fmt.Fprintln(w)
	grid(w, "SLOT RUNS STATE FILE", rows)
	rows = nil
	for _, l := range st.Links {
		rows = append(rows, []string{l.Name, yes(l.Up), dash(l.MAC), dash(join(l.Addresses)), dash(join(l.Gateways)), dash(l.Problem)})
	}
	fmt.Fprintln(w)
	grid(w, "LINK UP MAC ADDRESSES GATEWAYS PROBLEM", rows)
	rows = nil
	for _, p := range st.Parts {
		rows = append(rows, []string{p.Name, yes(p.Ready), ago(p.Since), strconv.Itoa(p.Restarts), dash(p.Last)})
	}
	fmt.Fprintln(w)
	grid(w, "PART READY SINCE RESTARTS LAST", rows)
}

func join[T netip.Addr | netip.Prefix](all []T) string {
	text := make([]string, len(all))
	for i, a := range all {
		text[i] = fmt.Sprint(a)
	}
	return strings.Join(text, ",")
}

// bytesText writes a size in the largest unit that leaves more than one of it.
func bytesText(n int64) string {
	unit := 0
	for f := n; f >= 2048 && unit < 3; f /= 1024 {
		unit++
	}
	return fmt.Sprintf("%d %s", n>>(10*unit), []string{"bytes", "KiB", "MiB", "GiB"}[unit])
}

func (s *session) machineNetwork() *cobra.Command {
	c := &cobra.Command{Use: "network", Short: "How the machine is connected"}
	show := &cobra.Command{Use: "show", Short: "Show the network as a file that set takes", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, raw, err := ask[api.MachineNetwork](cmd.Context(), s, http.MethodGet, machinePath+"/network", nil)
			if err != nil {
				return err
			}
			now := n.Confirmed
			if n.Trying != nil {
				fmt.Fprintf(cmd.ErrOrStderr(), "this one is tried, and taken back %s unless you say: lazaretctl machine network confirm\n", remaining(time.Until(n.Until)))
				now = *n.Trying
			}
			text, err := now.Marshal()
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { _, _ = w.Write(text) })
		}}
	confirm := &cobra.Command{Use: "confirm", Short: "Keep the network that is tried", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, machinePath+"/network/confirm", nil)
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "confirmed") })
		}}
	c.AddCommand(show, s.networkSet(), confirm)
	return c
}

func (s *session) networkSet() *cobra.Command {
	file, trial := "", 2*time.Minute
	c := &cobra.Command{Use: "set", Short: "Connect the machine as a file says, on trial", Args: cobra.NoArgs,
		Long: `Connect the machine as a file says (netplan, version 2), on trial: unless you confirm it in
time, which shows that you still reach the machine, the network from before comes back. Where
the machine is not reached under the new one, this waits until it is under the one before, and
fails.`,
		Example: "  lazaretctl machine network set -f network.yaml && lazaretctl machine network confirm",
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readFileOrStdin(cmd, file)
			if err != nil {
				return err
			}
			n, err := appliance.ParseNetwork(text)
			if err != nil {
				return fmt.Errorf("%s: %w", file, err)
			}
			return s.tryNetwork(cmd, n, trial)
		}}
	c.Flags().StringVarP(&file, "file", "f", "", "the file, - for standard input")
	c.Flags().DurationVar(&trial, "for", trial, "how long to try it, 30s to 15m")
	_ = c.MarkFlagRequired("file")
	return c
}

// readFileOrStdin reads a file of at most a mebibyte.
func readFileOrStdin(cmd *cobra.Command, file string) ([]byte, error) {
	in := cmd.InOrStdin()
	if file != "-" {
		f, err := os.Open(filepath.Clean(file))
		if err != nil {
			return nil, err
		}
		defer f.Close()
		in = f
	}
	return io.ReadAll(io.LimitReader(in, 1<<20))
}

func (s *session) machineLog() *cobra.Command {
	n, part, text := 200, "", ""
	since := time.Duration(0)
	c := &cobra.Command{Use: "log", Short: "The newest lines of the machine's log", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			q := url.Values{"n": {strconv.Itoa(n)}, "part": {part}, "contains": {text}}
			if since > 0 {
				q.Set("since", time.Now().Add(-since).UTC().Format(time.RFC3339))
			}
			lines, raw, err := ask[[]api.MachineLine](cmd.Context(), s, http.MethodGet, machinePath+"/log?"+q.Encode(), nil)
			if err != nil {
				return err
			}
			if len(lines) == 0 && part != "" {
				if err := s.isPart(cmd.Context(), part); err != nil {
					return err
				}
			}
			return s.show(cmd, raw, func(w io.Writer) {
				for _, l := range lines {
					fmt.Fprintf(w, "%s %s: %s\n", l.At.Local().Format("2006-01-02 15:04:05.000"), l.Part, printable(l.Text))
				}
			})
		}}
	f := c.Flags()
	f.IntVarP(&n, "lines", "n", n, "how many, 5000 at most")
	f.StringVar(&part, "part", "", "of this process alone: kernel, machine, serve, dataplane")
	f.StringVar(&text, "contains", "", "with this text in them")
	f.DurationVar(&since, "since", 0, "not older than this, like 10m")
	_ = c.RegisterFlagCompletionFunc("part", cobra.FixedCompletions([]string{"kernel", "machine", "serve", "dataplane"}, cobra.ShellCompDirectiveNoFileComp))
	return c
}

// isPart refuses a name that no part of the machine's log has.
func (s *session) isPart(ctx context.Context, part string) error {
	m, _, err := ask[api.Machine](ctx, s, http.MethodGet, machinePath, nil)
	if err != nil {
		return err
	}
	all := []string{"kernel", "machine"}
	for _, p := range m.Parts {
		all = append(all, p.Name)
	}
	if !slices.Contains(all, part) {
		return fmt.Errorf("no part of the machine is called %q: there are %s", part, strings.Join(all, ", "))
	}
	return nil
}

// printable keeps a line from moving the cursor of whoever reads it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' && r != '\t' || r == 0x7f || r >= 0x80 && r < 0xa0 {
			return '?'
		}
		return r
	}, s)
}

func (s *session) machinePower(what, short string, returns bool) *cobra.Command {
	wait := false
	also := map[string][]string{"reboot": {"restart"}, "poweroff": {"shutdown", "halt", "stop"}}
	c := &cobra.Command{Use: what, Short: short, Args: cobra.NoArgs, SuggestFor: also[what],
		RunE: func(cmd *cobra.Command, _ []string) error {
			before, _, err := ask[api.Machine](cmd.Context(), s, http.MethodGet, machinePath, nil)
			if err != nil {
				return err
			}
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, machinePath+"/"+what, nil)
			if err != nil {
				return err
			}
			if !wait {
				return s.show(cmd, raw, func(w io.Writer) { fmt.Fprintln(w, "the machine does so now") })
			}
			return s.showReturn(cmd, before.Status, "")
		}}
	if returns {
		c.Flags().BoolVar(&wait, "wait", false, "wait until the machine is back")
	}
	return c
}

// showReturn waits for the machine and shows what came back; version, unless it is empty, is
// what ought to.
func (s *session) showReturn(cmd *cobra.Command, before appliance.Status, version string) error {
	after, raw, err := s.awaitReturn(cmd.Context(), cmd.ErrOrStderr(), before.Booted)
	if err != nil {
		return err
	}
	if err := s.show(cmd, raw, func(w io.Writer) {
		fmt.Fprintf(w, "the machine is back, with version %s (before: %s)\n", after.Version, before.Version)
	}); err != nil {
		return err
	}
	if runs, _, _ := strings.Cut(after.Version, " "); version != "" && runs != version {
		return errors.New(cmp.Or(after.Update.Last, "version "+version+" did not come up"))
	}
	return nil
}

// returnTime is how long a machine may take to come back: three tries of a version that
// hangs, and the one before.
const returnTime = 20 * time.Minute

// awaitReturn asks until the machine has been started anew and is a gateway again.
func (s *session) awaitReturn(ctx context.Context, w io.Writer, booted time.Time) (st appliance.Status, raw []byte, err error) {
	ctx, stop := context.WithTimeout(ctx, returnTime)
	defer stop()
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	begin, gone := time.Now(), false
	for {
		one, end := context.WithTimeout(ctx, 10*time.Second)
		m, raw, err := ask[api.Machine](one, s, http.MethodGet, machinePath, nil)
		end()
		switch {
		case err != nil && !gone:
			gone = true
			fmt.Fprintf(w, "%6s  the machine is gone\n", time.Since(begin).Round(time.Second))
		case err == nil && m.Booted.After(booted) && m.Stage == appliance.Running:
			fmt.Fprintf(w, "%6s  the machine is back\n", time.Since(begin).Round(time.Second))
			return m.Status, raw, nil
		}
		select {
		case <-ctx.Done():
			return st, nil, fmt.Errorf("waiting for the machine: %w", errors.Join(ctx.Err(), err))
		case <-tick.C:
		}
	}
}

func (s *session) machineReset() *cobra.Command {
	sure := false
	c := &cobra.Command{Use: "reset GATEWAY", Short: "Erase everything and make the machine nobody's", ValidArgsFunction: cobra.NoFileCompletions,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name the gateway that is to be erased, as lazaretctl status shows it: lazaretctl machine reset GATEWAY --yes")
			}
			return cobra.ExactArgs(1)(cmd, args)
		},
		Long: `Erase everything, keys and records of all devices too, and start the machine anew as it
came: it shows a claim code on its screen and waits for whoever claims it. This cannot be
undone. GATEWAY is the gateway's name, as lazaretctl status shows it.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !sure {
				return fmt.Errorf("this erases gateway %s and cannot be undone: add --yes if that is what you mean; nothing was done", args[0])
			}
			_, raw, err := ask[any](cmd.Context(), s, http.MethodPost, machinePath+"/reset", api.MachineReset{Name: args[0]})
			if err != nil {
				return err
			}
			return s.show(cmd, raw, func(w io.Writer) {
				fmt.Fprintln(w, "the machine erases its keys and restarts; its screen shows a claim code")
			})
		}}
	c.Flags().BoolVar(&sure, "yes", false, "yes, erase it")
	return c
}
