// Lazaret is the device agent: it enrolls this device with a one-time password, holds the
// tunnel and follows the gateway's placement.
package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"lazaret/enroll/client"
	cmpwire "lazaret/enroll/cmp"
	"lazaret/enroll/code"
	"lazaret/internal/agent"
	"lazaret/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lazaret:", err)
		os.Exit(1)
	}
}

// session is what every command shares.
type session struct {
	dir, socket string
	verbose     bool
	json        bool
}

func root() *cobra.Command {
	s := &session{}
	c := &cobra.Command{Use: "lazaret", Short: "Enroll this device and keep its tunnel", SilenceUsage: true, SilenceErrors: true, Version: version.String()}
	f := c.PersistentFlags()
	f.StringVar(&s.dir, "dir", cmp.Or(os.Getenv("LAZARET_AGENT_DIR"), "/var/lib/lazaret-agent"), "state directory ($LAZARET_AGENT_DIR)")
	f.StringVar(&s.socket, "socket", cmp.Or(os.Getenv("LAZARET_AGENT_SOCKET"), "/run/lazaret-agent/agent.sock"), "control socket ($LAZARET_AGENT_SOCKET)")
	f.BoolVarP(&s.verbose, "verbose", "v", false, "log more")
	f.BoolVar(&s.json, "json", false, "print JSON")
	c.AddCommand(s.enroll(), s.up(), s.down(), s.status(), s.report(), s.renew(), s.wake(), s.posture())
	return c
}

func (s *session) log() *slog.Logger {
	level := slog.LevelInfo
	if s.verbose {
		level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
}

func (s *session) enroll() *cobra.Command {
	var server, file string
	var force bool
	c := &cobra.Command{
		Use: "enroll --server URL", Short: "Exchange a one-time password for a certificate and a place in the tunnel", Args: cobra.NoArgs,
		Long: `Exchange a one-time password for a certificate and a place in the tunnel.

The code is asked for, or read from a file or standard input (--code-file - ). It is never
an argument, since arguments can be read by every user of the machine. In place of a code,
an enrollment link does; then --server is not needed.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := readCode(cmd, file)
			if err != nil {
				return err
			}
			o := agent.EnrollOptions{Dir: s.dir, Server: server, Force: force, Log: s.log()}
			if strings.HasPrefix(text, "https://") {
				var at string
				if at, o.Code, o.RootPin, err = code.ParseLink(text); err == nil {
					o.Server = cmp.Or(server, at)
				}
			} else {
				o.Code, err = code.Parse(text)
			}
			if err != nil {
				return err
			}
			if o.Server == "" {
				return errors.New("which gateway? give --server https://HOST")
			}
			fmt.Fprintln(cmd.ErrOrStderr(), "enrolling at", o.Server)
			r, err := agent.Enroll(cmd.Context(), o)
			if err != nil && !(r != nil && errors.Is(err, client.ErrUnconfirmed)) {
				return err
			}
			return s.showEnrolled(cmd.OutOrStdout(), r)
		},
	}
	c.Flags().StringVar(&server, "server", "", "URL of the gateway, like https://gw.example.com")
	c.Flags().StringVar(&file, "code-file", "", "file with the code or link, - for standard input")
	c.Flags().BoolVar(&force, "force", false, "enroll anew although this device is enrolled")
	return c
}

func (s *session) showEnrolled(w io.Writer, r *client.Result) error {
	if s.json {
		return json.NewEncoder(w).Encode(map[string]any{
			"device": r.Settings.Device, "name": r.Settings.Name, "expires": r.Certificate.NotAfter, "addresses": r.Settings.Quarantine.Addresses,
		})
	}
	fmt.Fprintf(w, "enrolled as %s, certificate until %s\nnext: lazaret up\n", r.Settings.Name, r.Certificate.NotAfter.Local().Format("2006-01-02"))
	return nil
}

// readCode reads the code from the file, from standard input, or at a prompt without echo.
func readCode(cmd *cobra.Command, file string) (string, error) {
	var from io.Reader
	switch file {
	case "":
		if term.IsTerminal(int(os.Stdin.Fd())) {
			fmt.Fprint(cmd.ErrOrStderr(), "one-time password (not shown): ")
			b, err := term.ReadPassword(int(os.Stdin.Fd()))
			fmt.Fprintln(cmd.ErrOrStderr())
			return strings.TrimSpace(string(b)), err
		}
		from = cmd.InOrStdin()
	case "-":
		from = cmd.InOrStdin()
	default:
		f, err := os.Open(filepath.Clean(file))
		if err != nil {
			return "", fmt.Errorf("reading the code: %w", err)
		}
		defer f.Close()
		from = f
	}
	line, err := bufio.NewReader(io.LimitReader(from, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("reading the code: %w", err)
	}
	if line = strings.TrimSpace(line); line == "" {
		return "", errors.New("no code was given")
	}
	return line, nil
}

func (s *session) up() *cobra.Command {
	c := agent.Config{Schedule: agent.DefaultSchedule}
	cmd := &cobra.Command{
		Use: "up", Short: "Bring the tunnel up and keep it, until down or Ctrl-C", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.Dir, c.Socket, c.Log = s.dir, s.socket, s.log()
			return agent.Run(cmd.Context(), c, func() {
				fmt.Fprintln(cmd.ErrOrStderr(), "tunnel is up; lazaret status tells how it stands")
			})
		},
	}
	f := cmd.Flags()
	f.StringVar(&c.Interface, "interface", agent.DefaultInterface, "name of the tunnel's interface")
	f.BoolVar(&c.Userspace, "userspace", false, "use wireguard-go even where the kernel has WireGuard")
	f.StringVar(&c.EraseProgram, "erase-program", "", "program, by its full path, that erases this whole device when an administrator of the gateway orders it; it and all above it belong to root")
	f.StringVar(&c.TPM, "tpm", "", "device or socket of the TPM that vouches for reports, or none (default this device's own)")
	f.BoolVar(&c.NoDNS, "no-dns", false, "leave this device's DNS servers alone")
	f.DurationVar(&c.Schedule.First, "first-session", c.Schedule.First, "before the first management session")
	f.DurationVar(&c.Schedule.Every, "session-interval", c.Schedule.Every, "between management sessions")
	f.IntVar(&c.Schedule.Times, "sessions", c.Schedule.Times, "how many at most, until one succeeds")
	return cmd
}

// order asks the running agent and prints its answer.
func (s *session) order(r func() agent.Request, human func(io.Writer, agent.State)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := context.WithTimeout(cmd.Context(), 20*time.Second)
		defer cancel()
		st, err := agent.Ask(ctx, s.socket, r())
		if err != nil {
			return err
		}
		if s.json {
			return json.NewEncoder(cmd.OutOrStdout()).Encode(st)
		}
		human(cmd.OutOrStdout(), st)
		return nil
	}
}

func (s *session) down() *cobra.Command {
	end := s.order(func() agent.Request { return agent.Request{Op: "down"} }, func(w io.Writer, _ agent.State) { fmt.Fprintln(w, "going down") })
	return &cobra.Command{Use: "down", Short: "End the running agent and its tunnel", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			err := end(cmd, args)
			if !errors.Is(err, agent.ErrNotRunning) {
				return err
			}
			cleaned, fault := agent.CleanUp(agent.Config{Dir: s.dir, Log: s.log()}) // one that was killed could not do it itself
			if !cleaned {
				return errors.Join(err, fault)
			}
			if fault == nil {
				fmt.Fprintln(cmd.OutOrStdout(), "the agent was not running; the DNS servers and routing rules that it left are taken back")
			}
			return fault
		}}
}

func (s *session) status() *cobra.Command {
	return &cobra.Command{Use: "status", Short: "Tell where this device stands, and why", Args: cobra.NoArgs,
		RunE: s.order(func() agent.Request { return agent.Request{Op: "status"} }, showState)}
}

func (s *session) report() *cobra.Command {
	var verdict string
	c := &cobra.Command{Use: "report", Short: "Send this device's posture now", Args: cobra.NoArgs,
		RunE: s.order(func() agent.Request { return agent.Request{Op: "report", Verdict: verdict} }, showState)}
	c.Flags().StringVar(&verdict, "verdict", "", "what the device thinks of itself: compliant or noncompliant")
	return c
}

func (s *session) renew() *cobra.Command {
	return &cobra.Command{Use: "renew", Short: "Renew the certificate and the tunnel's key now, ahead of time", Args: cobra.NoArgs,
		RunE: s.order(func() agent.Request { return agent.Request{Op: "renew"} }, func(w io.Writer, _ agent.State) { fmt.Fprintln(w, "renewing") })}
}

func (s *session) wake() *cobra.Command {
	return &cobra.Command{Use: "wake TOKEN", Short: "Bring the agent a wake-up of the gateway, as a management server's script does", Args: cobra.ExactArgs(1),
		Long: `Bring the agent a wake-up of the gateway, as a management server's script does.

A wake-up says nothing but that the device is to ask the gateway what there is to do. It is
signed, good for a few minutes and for one device, once; who brings it does not matter.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return s.order(func() agent.Request { return agent.Request{Op: "wake", Token: args[0]} },
				func(w io.Writer, _ agent.State) { fmt.Fprintln(w, "woken") })(cmd, nil)
		}}
}

// showManaged tells what administrators told the user, and had the device do.
func showManaged(w io.Writer, st agent.State) {
	for _, n := range st.Notices {
		fmt.Fprintf(w, "notice   %s: %s\n", n.At.Local().Format("2006-01-02 15:04"), strings.ReplaceAll(n.Text, "\n", "\n         "))
	}
	for _, c := range st.Commands {
		fmt.Fprintf(w, "command  %s: %s %s", c.At.Local().Format("2006-01-02 15:04"), c.Kind, c.State)
		if c.Detail != "" {
			fmt.Fprintf(w, ", %s", c.Detail)
		}
		fmt.Fprintln(w)
	}
}

func showState(w io.Writer, st agent.State) {
	if st.Status == nil {
		fmt.Fprintf(w, "gateway  %s: %s\n", st.Server, st.Problem)
		showManaged(w, st)
		return
	}
	fmt.Fprintf(w, "device   %s\nstage    %s\npool     %s\n", st.Status.Name, st.Status.Stage, st.Status.Pool)
	for _, r := range st.Status.Reasons {
		sign := "-"
		if r.Holds {
			sign = "+"
		}
		fmt.Fprintf(w, "  %s %s\n", sign, r.Text)
	}
	if page := portal(st.Status.Settings); page != "" {
		fmt.Fprintf(w, "page     %s\n", page)
	}
	fmt.Fprintf(w, "gateway  %s, answered %s ago\n", st.Server, time.Since(st.Since).Round(time.Second))
	if st.Problem != "" {
		fmt.Fprintln(w, "problem ", st.Problem)
	}
	if st.Peer != nil {
		fmt.Fprintf(w, "tunnel   %s, received %d bytes, sent %d bytes\n", st.Peer.Endpoint, st.Peer.Received, st.Peer.Sent)
	}
	fmt.Fprintf(w, "expires  %s\n", st.Expires.Local().Format("2006-01-02 15:04"))
	showManaged(w, st)
}

// portal is the page that tells the device's user why it is where it is, empty for none.
func portal(s cmpwire.Settings) string {
	if len(s.Gateways) == 0 {
		return ""
	}
	return s.Gateways[0].Portal
}
