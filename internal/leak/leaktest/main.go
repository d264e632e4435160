// Leaktest runs the leak suite and prints what became of each kind of attack. It makes
// its own namespaces and needs neither root nor anything installed.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"lazaret/internal/leak"
	"lazaret/internal/testnet"
)

func main() {
	testnet.Main(leak.Roles())
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "leaktest:", err)
		os.Exit(1)
	}
}

// errLeak is what a run ends with that did not hold.
var errLeak = errors.New("not every case held")

func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("leaktest", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "write the whole table of cases as JSON to standard output")
	long := flags.Bool("long", os.Getenv("LONG") == "1", "many rounds, with random order, sizes and pauses (also LONG=1)")
	short := flags.Bool("short", false, "the whole table in two stages only, and one probe of each group in the others")
	rounds := flags.Int("rounds", 0, "rounds of all attacks (default 1; 40 in a long run)")
	seed := flags.Uint64("seed", uint64(time.Now().UnixNano()), "of what is random")
	verbose := flags.Bool("v", false, "print what the processes in the lab say")
	if err := flags.Parse(args); err != nil {
		return err
	}
	o := leak.Options{Short: *short, Rounds: *rounds, Vary: true, Seed: *seed, Log: os.Stderr}
	if o.Rounds == 0 {
		o.Rounds = 1
		if *long {
			o.Rounds = 40
		}
	}
	if *verbose {
		o.Detail = os.Stderr
	}
	fmt.Fprintf(os.Stderr, "leaktest: %d rounds, seed %d\n", o.Rounds, *seed)
	r, err := leak.Run(ctx, o)
	if err != nil {
		return err
	}
	table := io.Writer(os.Stdout)
	if *asJSON {
		table = os.Stderr
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return err
		}
	}
	r.Print(table)
	if !r.OK() {
		return errLeak
	}
	return nil
}
