package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/juicefs-csi/driver/test/local"
)

const (
	// window is how long the writer is watched before and after.
	window = 10 * time.Second
	// patience bounds each wait for pods and lines.
	patience = 2 * time.Minute
)

// placement is a narrow kubectl output that tells where pods are.
const placement = "custom-columns=NAME:.metadata.name,NODE:.spec.nodeName,STATUS:.status.phase"

// lookAround shows what runs as a user would look at it.
func (d *demo) lookAround(ctx context.Context) error {
	if err := d.show(ctx, "-n", namespace, "get", "pvc"); err != nil {
		return err
	}
	if err := d.show(ctx, "-n", namespace, "get", "pods", "-o", placement); err != nil {
		return err
	}
	if err := d.showMountPods(ctx); err != nil {
		return err
	}
	if err := d.watched(ctx, time.Now()); err != nil {
		return err
	}
	return d.show(ctx, "-n", namespace, "logs", "deployment/reader", "--tail=3")
}

func (d *demo) showMountPods(ctx context.Context) error {
	return d.show(ctx, "-n", local.Namespace, "get", "pods", "-l", "app.kubernetes.io/name=juicefs-mount", "-o", placement)
}

// watched waits until the writer has been running for a window since a time,
// and first does nothing, so that what it asks does not disturb the writer.
func (d *demo) watched(ctx context.Context, since time.Time) error {
	timer := time.NewTimer(time.Until(since.Add(window + time.Second)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
	}
	return wait(ctx, patience, "the writer writes", func(ctx context.Context) (bool, error) {
		periods, err := d.periods(ctx)
		return len(periods) > 0 && periods[len(periods)-1].at.Sub(since) > window, err
	})
}

// mountPod is the mount pod that serves the writer.
func (d *demo) mountPod(ctx context.Context) (string, error) {
	volume, err := d.ask(ctx, "-n", namespace, "get", "pvc", "shared", "-o", "jsonpath={.spec.volumeName}")
	if err != nil {
		return "", err
	}
	return d.ask(ctx, "-n", local.Namespace, "get", "pods", "-l", "app.kubernetes.io/name=juicefs-mount,volume-id="+volume,
		"--field-selector", "spec.nodeName=node-1,status.phase=Running", "-o", "jsonpath={.items[*].metadata.name}")
}

// takeMountPodAway deletes the writer's mount pod and tells what the writer
// noticed of it.
func (d *demo) takeMountPodAway(ctx context.Context) error {
	d.title("The mount pod is deleted while the writer writes")
	old, err := d.mountPod(ctx)
	if err != nil {
		return err
	}
	if old == "" || strings.Contains(old, " ") {
		return fmt.Errorf("one mount pod should serve the writer, these do: %q", old)
	}
	deleted := time.Now()
	if err := d.show(ctx, "-n", local.Namespace, "delete", "pod", old); err != nil {
		return err
	}
	err = wait(ctx, patience, "another mount pod serves", func(ctx context.Context) (bool, error) {
		now, err := d.mountPod(ctx)
		return now != "" && now != old, err
	})
	if err != nil {
		return err
	}
	d.step("another mount pod serves")
	if err := d.showMountPods(ctx); err != nil {
		return err
	}
	if err := d.watched(ctx, deleted); err != nil {
		return err
	}
	return d.compare(ctx, deleted)
}

// compare shows the writer's own measurements from before and after a time.
func (d *demo) compare(ctx context.Context, deleted time.Time) error {
	periods, err := d.periods(ctx)
	if err != nil {
		return err
	}
	restarts, err := d.ask(ctx, "-n", namespace, "get", "pods", "-l", "app=writer",
		"-o", "jsonpath={.items[*].status.containerStatuses[0].restartCount}")
	if err != nil {
		return err
	}
	before := slowest(periods, deleted.Add(-window), deleted)
	after := slowest(periods, deleted, time.Now())
	d.step("the writer's own measurements, a write of one line every 5 ms and an fsync every second:")
	d.result("", "longest write", "longest fsync")
	d.result(fmt.Sprintf("in the %s before the deletion", window), before.write, before.sync)
	d.result(fmt.Sprintf("in the %s since the deletion", after.at.Sub(deleted).Round(time.Second)), after.write, after.sync)
	d.result("errors (the first one would end it)", restarts, "")
	if restarts != "0" {
		return errors.New("the writer saw an error: see `bin/kubectl -n demo logs deployment/writer --previous`")
	}
	return nil
}

func (d *demo) result(name string, write, sync any) {
	_, _ = fmt.Fprintf(d.out, "%9s%-36s %14v %14v\n", "", name, write, sync)
}

// replaceApplications deletes the application pods; the data stay.
func (d *demo) replaceApplications(ctx context.Context) error {
	d.title("The application pods are deleted too: their data stay")
	if err := d.show(ctx, "-n", namespace, "delete", "pods", "--all"); err != nil {
		return err
	}
	if err := d.rolledOut(ctx); err != nil {
		return err
	}
	// The new reader reads from the first line on.
	err := wait(ctx, patience, "the reader reads", func(ctx context.Context) (bool, error) {
		log, err := d.ask(ctx, "-n", namespace, "logs", "deployment/reader", "--tail=1")
		return strings.Contains(log, " line=") && !strings.Contains(log, " line=0 "), err
	})
	if err != nil {
		return err
	}
	return d.show(ctx, "-n", namespace, "logs", "deployment/reader", "--tail=1")
}

// period is one line of the writer's log.
type period struct {
	at          time.Time
	line        int
	write, sync time.Duration
}

// periods are what the writer that runs now has reported lately.
func (d *demo) periods(ctx context.Context) ([]period, error) {
	log, err := d.ask(ctx, "-n", namespace, "logs", "deployment/writer", "--tail=300")
	if err != nil {
		return nil, err
	}
	return parsePeriods(log)
}

func parsePeriods(log string) ([]period, error) {
	var all []period
	for line := range strings.Lines(log) {
		var at, write, sync string
		var p period
		_, err := fmt.Sscanf(line, "%s line=%d longest-write=%s longest-fsync=%s", &at, &p.line, &write, &sync)
		if err == nil {
			p.at, err = time.Parse(time.RFC3339Nano, at)
		}
		if err == nil {
			p.write, err = time.ParseDuration(write)
		}
		if err == nil {
			p.sync, err = time.ParseDuration(sync)
		}
		if err != nil {
			return nil, fmt.Errorf("the writer said %q: %w", strings.TrimSpace(line), err)
		}
		all = append(all, p)
	}
	return all, nil
}

// slowest is the slowest of each in the periods that ended in (from, to].
func slowest(periods []period, from, to time.Time) period {
	var result period
	for _, p := range periods {
		if p.at.After(from) && !p.at.After(to) {
			result.at = p.at
			result.write, result.sync = max(result.write, p.write), max(result.sync, p.sync)
		}
	}
	return result
}
