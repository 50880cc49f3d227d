package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/test/devcluster"
)

// title begins a part of the demo.
func (d *demo) title(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, "\n== "+format+"\n", args...)
}

// step tells what was done and when, as the cluster's own lines do.
func (d *demo) step(format string, args ...any) {
	_, _ = fmt.Fprintf(d.out, "%6.1fs  %s\n", time.Since(d.start).Seconds(), fmt.Sprintf(format, args...))
}

// command shows what a user would type.
func (d *demo) command(argv ...string) {
	_, _ = fmt.Fprintf(d.out, "%6.1fs  $ %s\n", time.Since(d.start).Seconds(), strings.Join(argv, " "))
}

// show runs kubectl before the user's eyes.
func (d *demo) show(ctx context.Context, args ...string) error {
	d.command(append([]string{"kubectl"}, args...)...)
	return d.shown(ctx, nil, args...)
}

func (d *demo) shown(ctx context.Context, in io.Reader, args ...string) error {
	var out bytes.Buffer
	err := d.kubectl(ctx, in, &out, args...)
	_, _ = io.WriteString(d.out, indent(out.String()))
	return err
}

// ask runs kubectl and returns what it prints.
func (d *demo) ask(ctx context.Context, args ...string) (string, error) {
	var out bytes.Buffer
	err := d.kubectl(ctx, nil, &out, args...)
	return strings.TrimSpace(out.String()), err
}

func (d *demo) kubectl(ctx context.Context, in io.Reader, out io.Writer, args ...string) error {
	var faults bytes.Buffer
	if err := d.Kubectl(ctx, devcluster.Streams{In: in, Out: out, Err: &faults}, args...); err != nil {
		return fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(faults.String()))
	}
	return nil
}

// wait calls done until it is true.
func wait(ctx context.Context, limit time.Duration, what string, done func(context.Context) (bool, error)) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ticker := time.NewTicker(500 * time.Millisecond)
	defer ticker.Stop()
	for {
		ok, err := done(ctx)
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s: not within %s: %w", what, limit, ctx.Err())
		case <-ticker.C:
		}
	}
}

// steps makes a step of every line.
type steps struct{ *demo }

func (s steps) Write(p []byte) (int, error) {
	for line := range strings.Lines(string(p)) {
		s.step("%s", strings.TrimSuffix(line, "\n"))
	}
	return len(p), nil
}

// indent moves lines below the steps, and takes spaces off their ends.
func indent(text string) string {
	var result strings.Builder
	for line := range strings.Lines(text) {
		result.WriteString(strings.TrimRight("         "+line, " \n") + "\n")
	}
	return result.String()
}

// writeKubectl leaves a kubectl for people: the cluster's own, which knows the
// cluster.
func (d *demo) writeKubectl(ctx context.Context) error {
	program, err := devcluster.BuildKubernetes(ctx, d.options.cluster, io.Discard)
	if err != nil {
		return err
	}
	d.kubectlPath = kubectlPath(d.tree.Root)
	script := "#!/bin/sh\n# Written by make demo.\n" +
		fmt.Sprintf("KUBECONFIG=\"${KUBECONFIG:-%s}\" exec '%s' kubectl \"$@\"\n", d.Kubeconfig(), program)
	if err := os.MkdirAll(filepath.Dir(d.kubectlPath), 0o755); err != nil {
		return fmt.Errorf("write kubectl: %w", err)
	}
	if err := os.WriteFile(d.kubectlPath, []byte(script), 0o755); err != nil {
		return fmt.Errorf("write kubectl: %w", err)
	}
	return nil
}

func kubectlPath(root string) string { return filepath.Join(root, "bin", "kubectl") }
