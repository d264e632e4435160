// Demo shows the whole of Lazaret at work in a lab of namespaces on this machine: five
// hosts, real links, a real CA, a real WireGuard tunnel, real nftables, and measured
// packets. It needs Go and nothing else, and no root.
//
//	go run ./cmd/demo [--json] [--keep] [--verbose]
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"lazaret/internal/testnet"
)

func main() {
	testnet.Main(roles)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// options are the command line's.
type options struct {
	json, keep, verbose bool
}

// run returns the exit status: 0 only if every step held.
func run(ctx context.Context, args []string, out, errs io.Writer) int {
	var o options
	f := flag.NewFlagSet("demo", flag.ContinueOnError)
	f.SetOutput(errs)
	f.BoolVar(&o.json, "json", false, "print one JSON object per step, and a last one with the summary")
	f.BoolVar(&o.keep, "keep", false, "leave the lab running at the end, and say how to enter it")
	f.BoolVar(&o.verbose, "verbose", false, "show what the lab's processes log")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.NArg() > 0 {
		fmt.Fprintf(errs, "demo: unknown argument %q\n", f.Arg(0))
		return 2
	}
	p := &printer{out: out, errs: errs, json: o.json}
	d := &demo{print: p, verbose: o.verbose}
	defer d.close()
	ok := d.all(ctx)
	p.summary(ok)
	if o.keep && d.net != nil && ctx.Err() == nil {
		d.keep(ctx, errs)
	}
	if !ok {
		return 1
	}
	return 0
}
