// Lazaretctl is the administrator's command line: a client of the API, with no rules of
// its own.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"lazaret/cmd/internal/strict"
	"lazaret/internal/version"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := root().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "lazaretctl:", err)
		os.Exit(1)
	}
}

// session is what every command shares: how to reach the API and how to print.
type session struct {
	dir, server, tokenFile string
	json                   bool
}

func root() *cobra.Command {
	s := &session{}
	c := &cobra.Command{
		Use: "lazaretctl", Short: "Administer a Lazaret gateway", SilenceUsage: true, SilenceErrors: true, Version: version.String(),
		Long: `Administer a Lazaret gateway over its API.

The credential is read from a directory that lazaretd init made: server, root.pem,
admin.pem and admin-key.pem. With --token-file a token takes the certificate's place.`,
	}
	f := c.PersistentFlags()
	f.StringVar(&s.dir, "dir", defaultDir(), "directory of the credential ($LAZARET_DIR)")
	f.StringVar(&s.server, "server", "", "URL of the API (default: the directory's file \"server\")")
	f.StringVar(&s.tokenFile, "token-file", "", "file with an API token, - for standard input")
	f.BoolVar(&s.json, "json", false, "print JSON as the API sent it")
	c.AddCommand(s.otp(), s.device(), s.command(), s.report(), s.pool(), s.profile(), s.policy(), s.conduct(), s.source(), s.ssf(), s.hook(), s.stream(), s.token(), s.alert(), s.attestation(), s.audit(), s.machine(), s.certificate(), s.status(), s.claim(), s.connect(), s.seed())
	return strict.Groups(c)
}
