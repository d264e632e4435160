package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// show prints raw JSON with --json, else what human writes.
func (s *session) show(cmd *cobra.Command, raw []byte, human func(w io.Writer)) error {
	if s.json {
		_, err := cmd.OutOrStdout().Write(raw)
		return err
	}
	human(cmd.OutOrStdout())
	return nil
}

// grid prints rows in columns under a head.
func grid(w io.Writer, head string, rows [][]string) {
	t := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t"))
	for _, r := range rows {
		fmt.Fprintln(t, strings.Join(r, "\t"))
	}
	t.Flush()
}

// paint colours text on a terminal, by stage; elsewhere, and with NO_COLOR, it is plain.
func paint(w io.Writer, stage string) string {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" || !term.IsTerminal(int(f.Fd())) {
		return stage
	}
	colours := map[string]string{"routed": "32", "quarantined": "33", "pending": "36", "blocked": "31", "revoked": "31"}
	if c := colours[stage]; c != "" {
		return "\x1b[" + c + "m" + stage + "\x1b[0m"
	}
	return stage
}

// ago says how long since, or until, in the largest unit that fits.
func ago(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := time.Since(t)
	if d < 0 {
		return "in " + span(-d)
	}
	return span(d) + " ago"
}

func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
