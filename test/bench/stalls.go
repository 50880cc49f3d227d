package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/juicefs-csi/driver/test/bench/workload"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	loadName = "load"
	// quietLength is how long an undisturbed window is, about as long as one
	// with a hand-over.
	quietLength = 4 * time.Second
	// aftermath belongs to the window of an event after all is as before.
	aftermath = 2 * time.Second
)

// disturbance is something that happened while the load ran.
type disturbance struct {
	name string
	window
	// recovered is when everything was as before, processes and pods.
	recovered time.Time
}

// victim is a process that is killed.
type victim struct{ name, app, process string }

func victims() []victim {
	return []victim{
		{"jfs_launch", "", launcherProcess},
		{"client", "", clientProcess},
		{"fdvault", "juicefs-csi-mountmgr", "juicefs-fdvault"},
		{"mountmgr", "juicefs-csi-mountmgr", "juicefs-mountmg"},
	}
}

// stalls measures how long single operations of an application take while
// what serves them is replaced or killed.
func (b *bench) stalls(ctx context.Context) error {
	if err := b.volumes(ctx, loadName); err != nil {
		return err
	}
	if _, err := b.startApp(ctx, loadName, loadName, "run", "/data"); err != nil {
		return err
	}
	if err := wait(ctx, settling); err != nil {
		return err
	}
	b.say("load alone, %d times %s", b.counts.handOvers, quietLength)
	all, err := repeat(ctx, b.counts.handOvers, "quiet", func() error { return wait(ctx, quietLength-aftermath) })
	if err != nil {
		return err
	}
	b.say("%d hand-overs under load", b.counts.handOvers)
	since := time.Now()
	planned, err := repeat(ctx, b.counts.handOvers, "hand_over", func() error { return b.replaceMountPod(ctx) })
	if err != nil {
		return err
	}
	all = append(all, planned...)
	if err := b.passedOn(ctx, since, planned); err != nil {
		return err
	}
	for round := range b.counts.kills {
		for _, v := range victims() {
			b.say("kill -9 of %s under load, %d of %d", v.name, round+1, b.counts.kills)
			killed, err := repeat(ctx, 1, "kill."+v.name, func() error { return b.kill(ctx, v) })
			if err != nil {
				return err
			}
			all = append(all, killed...)
		}
	}
	records, err := b.report(ctx)
	if err != nil {
		return err
	}
	return b.addStalls(all, records)
}

// repeat does a thing n times; it returns when all is as before.
func repeat(ctx context.Context, n int, name string, act func() error) ([]disturbance, error) {
	var all []disturbance
	for range n {
		d := disturbance{name: name, window: window{from: time.Now()}}
		if err := act(); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		d.recovered = time.Now()
		if err := wait(ctx, aftermath); err != nil {
			return nil, err
		}
		d.to = time.Now()
		all = append(all, d)
	}
	return all, nil
}

// mountPod is the one mount pod of the load's volume.
func (b *bench) mountPod(ctx context.Context) (*corev1.Pod, error) {
	list, err := b.kube.CoreV1().Pods(local.Namespace).List(ctx, metav1.ListOptions{
		LabelSelector: mountPods + ",volume-id=" + b.volumeID(loadName),
	})
	if err != nil {
		return nil, fmt.Errorf("find mount pod: %w", err)
	}
	if len(list.Items) != 1 || list.Items[0].Status.Phase != corev1.PodRunning {
		return nil, fmt.Errorf("%d mount pods, or one that does not run", len(list.Items))
	}
	return &list.Items[0], nil
}

// replaceMountPod deletes the mount pod as kubectl does.
func (b *bench) replaceMountPod(ctx context.Context) error {
	old, err := b.mountPod(ctx)
	if err != nil {
		return err
	}
	if err := b.kube.CoreV1().Pods(local.Namespace).Delete(ctx, old.Name, metav1.DeleteOptions{}); err != nil {
		return fmt.Errorf("delete mount pod: %w", err)
	}
	return until(ctx, "another mount pod serves", func() error {
		pod, err := b.mountPod(ctx)
		if err == nil && pod.UID == old.UID {
			err = errors.New("it is the old one")
		}
		return err
	})
}

// kill kills a process and waits until another one does its work.
func (b *bench) kill(ctx context.Context, v victim) error {
	find := func() (*corev1.Pod, error) { return b.mountPod(ctx) }
	if v.app != "" {
		find = func() (*corev1.Pod, error) { return b.podOf(ctx, v.app) }
	}
	pod, err := find()
	if err != nil {
		return err
	}
	processes, err := processesOf(pod, v.process)
	if err != nil || len(processes) == 0 {
		return errors.Join(fmt.Errorf("no process %s in pod %s", v.process, pod.Name), err)
	}
	killed := make(map[int]bool)
	for _, each := range processes {
		killed[each.pid] = true
		if err := syscall.Kill(each.pid, syscall.SIGKILL); err != nil {
			return fmt.Errorf("kill process %d: %w", each.pid, err)
		}
	}
	err = until(ctx, "another process runs", func() error {
		now, err := find()
		if err != nil {
			return err
		}
		processes, err := processesOf(now, v.process)
		if err == nil && (len(processes) == 0 || killed[processes[0].pid]) {
			err = errors.New("there is none")
		}
		return err
	})
	if err != nil {
		return err
	}
	return until(ctx, "all is ready", func() error { return b.allReady(ctx) })
}

// allReady fails unless everything that serves the load runs.
func (b *bench) allReady(ctx context.Context) error {
	mountPod, err := b.mountPod(ctx)
	if err != nil {
		return err
	}
	mountmgr, err := b.podOf(ctx, "juicefs-csi-mountmgr")
	if err != nil {
		return err
	}
	for _, pod := range []*corev1.Pod{mountPod, mountmgr} {
		for _, status := range pod.Status.ContainerStatuses {
			if !status.Ready {
				return fmt.Errorf("container %s of pod %s is not ready", status.Name, pod.Name)
			}
		}
	}
	return nil
}

// passedOn reads from the log of the mount manager how long the applications
// had to wait in its view: from telling the old client to stop until the new
// one answers.
func (b *bench) passedOn(ctx context.Context, since time.Time, planned []disturbance) error {
	var totals []time.Duration
	for _, d := range planned {
		totals = append(totals, d.recovered.Sub(d.from))
	}
	b.addDurations("hand_over.total", totals, 50, 100)
	pod, err := b.podOf(ctx, "juicefs-csi-mountmgr")
	if err != nil {
		return err
	}
	start := metav1.NewTime(since)
	log, err := b.kube.CoreV1().Pods(local.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: "mountmgr", SinceTime: &start,
	}).DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("read log of the mount manager: %w", err)
	}
	durations, err := handOverTimes(string(log))
	if err != nil {
		return err
	}
	b.addDurations("hand_over.passed_on", durations, 50, 100)
	return nil
}

func handOverTimes(log string) ([]time.Duration, error) {
	var durations []time.Duration
	for line := range strings.Lines(log) {
		_, rest, found := strings.Cut(line, `msg="handed over"`)
		if !found {
			continue
		}
		_, rest, _ = strings.Cut(rest, " duration=")
		text, _, _ := strings.Cut(rest, " ")
		duration, err := time.ParseDuration(text)
		if err != nil {
			return nil, fmt.Errorf("read log of the mount manager: %w", err)
		}
		durations = append(durations, duration)
	}
	return durations, nil
}

// report ends the load and returns what it has to say.
func (b *bench) report(ctx context.Context) ([]workload.Record, error) {
	pod, err := b.pod(ctx, loadName)
	if err != nil {
		return nil, err
	}
	processes, err := processesOf(pod, loadName)
	if err != nil || len(processes) != 1 {
		return nil, errors.Join(fmt.Errorf("%d processes of the load", len(processes)), err)
	}
	if err := syscall.Kill(processes[0].pid, syscall.SIGTERM); err != nil {
		return nil, fmt.Errorf("end load: %w", err)
	}
	err = until(ctx, "the load has ended", func() error {
		pod, err := b.pod(ctx, loadName)
		if err == nil && pod.Status.Phase != corev1.PodSucceeded {
			err = fmt.Errorf("it is %s", pod.Status.Phase)
		}
		return err
	})
	text, logErr := b.log(ctx, b.namespace, loadName, "app")
	if err := errors.Join(err, logErr); err != nil {
		return nil, err
	}
	return workload.Parse(bytes.NewReader(text))
}
