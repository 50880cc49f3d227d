package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/juicefs-csi/driver/test/devcluster"
	"github.com/juicefs-csi/driver/test/local"
)

const (
	// densePods and denseProcesses are how many volumes are mounted at one time
	// on the node, by mount pods and by processes.
	densePods      = 50
	denseProcesses = 200
	// warmCalls is how many further targets are published then.
	warmCalls = 400
	// foreignMounts is how many mounts of others are in the mount table.
	foreignMounts = 10_000
)

// densePods fills the node with mount pods, each made when it is wanted.
func (b *bench) densePods(ctx context.Context) error {
	if err := b.reinstall(ctx, "mountmgr.sparePods=0"); err != nil {
		return err
	}
	err := b.mounted(ctx, "pods", densePods, nil)
	return errors.Join(err, b.reinstall(ctx))
}

// denseProcesses fills the node with clients that are processes, and then its
// mount table with foreign mounts.
func (b *bench) denseProcesses(ctx context.Context) error {
	values, err := local.ProcessMode(b.cluster, node)
	if err != nil {
		return err
	}
	if err := b.reinstall(ctx, values...); err != nil {
		return err
	}
	err = b.mounted(ctx, "processes", denseProcesses, b.foreign)
	return errors.Join(err, b.reinstall(ctx))
}

func (b *bench) reinstall(ctx context.Context, values ...string) error {
	return b.tree.Upgrade(ctx, b.cluster, b.helm, io.Discard, append(installValues(), values...)...)
}

// mounted publishes so many volumes, further targets of them, and records how
// long that took and what the driver takes. then, if not nil, goes on with all
// of them mounted.
func (b *bench) mounted(ctx context.Context, kind string, count int, then func(context.Context, *plugin, string) error) (err error) {
	b.say("mounting %d volumes by %s", count, kind)
	host := "host-" + kind
	names := []string{host}
	for i := range count {
		names = append(names, fmt.Sprintf("%s-%d", kind, i))
	}
	if err := b.volumes(ctx, names...); err != nil {
		return err
	}
	if _, err := b.startApp(ctx, host, host, "stamp"); err != nil {
		return err
	}
	p, err := b.connect(ctx, host)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.conn.Close()) }()
	prefix := "dense." + kind
	cold, warm := denseNames(b.volumeID(kind), count)
	took, err := p.series(ctx, count, cold)
	if err != nil {
		return err
	}
	b.addDurations(prefix+".cold", took, 50, 95, 99)
	if err := wait(ctx, settling); err != nil { // Clients that have just started are busy.
		return err
	}
	if took, err = p.series(ctx, warmCalls, warm); err != nil {
		return err
	}
	b.addDurations(prefix+".warm", took, 50, 95, 99)
	if err := p.clear(ctx, warmCalls, warm); err != nil {
		return err
	}
	if err := b.memory(ctx, count); err != nil {
		return err
	}
	if then != nil {
		if err := then(ctx, p, b.volumeID(kind)); err != nil {
			return err
		}
	}
	if err := p.clear(ctx, count, cold); err != nil {
		return err
	}
	return b.deleteApps(ctx)
}

// denseNames names the volumes and their first targets, as kubelet does, and
// further targets over all of the volumes.
func denseNames(prefix string, count int) (cold, warm func(int) (volume, target string)) {
	volume := func(i int) string { return fmt.Sprintf("%s-%d", prefix, i%count) }
	cold = func(i int) (string, string) { return volume(i), volume(i) }
	warm = func(i int) (string, string) { return volume(i), fmt.Sprintf("%s-further-%d", volume(i), i) }
	return cold, warm
}

// foreign publishes further targets while the node's mount table holds many
// mounts of others, which the mount manager sees too.
func (b *bench) foreign(ctx context.Context, p *plugin, prefix string) error {
	b.say("adding %d foreign mounts", foreignMounts)
	dir := path.Join(kubeletDir, "foreign-mounts")
	mounts := func(verb string) error {
		return b.cluster.NodeExec(ctx, node, devcluster.Streams{Out: io.Discard, Err: b.progress},
			b.program, verb, dir, fmt.Sprint(foreignMounts))
	}
	if err := mounts("mounts"); err != nil {
		return errors.Join(err, mounts("unmount"))
	}
	_, warm := denseNames(prefix, denseProcesses)
	took, err := p.series(ctx, warmCalls, warm)
	b.addDurations("dense.foreign_mounts.warm", took, 50, 95, 99)
	return errors.Join(err, p.clear(ctx, len(took), warm), mounts("unmount"))
}
