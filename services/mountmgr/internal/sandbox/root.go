package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// build makes the root file system of a box.
func build(box Box) error {
	options := "mode=755,size=" + strconv.FormatInt(box.Size, 10)
	if err := unix.Mount("tmpfs", box.Root, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, options); err != nil {
		return fmt.Errorf("mount root at %s: %w", box.Root, err)
	}
	for dir, mode := range map[string]os.FileMode{"proc": 0o555, "dev": 0o755, "root": 0o700, "tmp": 0o777 | os.ModeSticky} {
		path := filepath.Join(box.Root, dir)
		if err := errors.Join(os.Mkdir(path, mode), os.Chmod(path, mode)); err != nil {
			return fmt.Errorf("make root: %w", err)
		}
	}
	if err := fill(box); err != nil {
		return err
	}
	return MountProc(filepath.Join(box.Root, "proc"))
}

// fill adds what the box names to its root: what users name comes last, on top
// of the files, which are not written through it.
func fill(box Box) error {
	root, err := os.OpenRoot(box.Root)
	if err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	defer func() { _ = root.Close() }()
	for path, content := range box.Files {
		if err := write(root, path, content); err != nil {
			return err
		}
	}
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"} {
		if err := show(root, Bind{Source: device, Target: device}); err != nil {
			return err
		}
	}
	for _, bind := range box.Binds {
		if err := confinedBind(root, bind); err != nil {
			return err
		}
	}
	for path, target := range box.Links {
		name := relative(path)
		err := root.MkdirAll(filepath.Dir(name), 0o755)
		if err == nil {
			err = root.Symlink(target, name)
		}
		if err != nil {
			return fmt.Errorf("make root: %w", err)
		}
	}
	return nil
}

func relative(path string) string { return strings.TrimPrefix(path, "/") }

func write(root *os.Root, path string, content []byte) error {
	name := relative(path)
	err := root.MkdirAll(filepath.Dir(name), 0o755)
	if err == nil {
		err = root.WriteFile(name, content, 0o644)
	}
	if err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	return nil
}

// confinedBind shows what users have named: it brings neither devices nor
// programs that give rights.
func confinedBind(root *os.Root, bind Bind) error {
	if bind.Create {
		if err := os.MkdirAll(bind.Source, 0o755); err != nil { //nolint:gosec // as kubelet does
			return fmt.Errorf("make directory %s: %w", bind.Source, err)
		}
	}
	if err := show(root, bind); err != nil {
		return err
	}
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if bind.ReadOnly {
		attributes.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	target := filepath.Join(root.Name(), bind.Target)
	if err := unix.MountSetattr(unix.AT_FDCWD, target, unix.AT_RECURSIVE, &attributes); err != nil {
		return fmt.Errorf("restrict %s: %w", target, err)
	}
	return nil
}

// Show binds the source, with what is mounted below it, at the target below
// root, which is made: a directory or a file as the source is.
func Show(root string, bind Bind) error {
	opened, err := os.OpenRoot(root)
	if err != nil {
		return fmt.Errorf("show %s: %w", bind.Source, err)
	}
	defer func() { _ = opened.Close() }()
	return show(opened, bind)
}

// show makes the target through root, so that a link in what was bound before
// leads nowhere else.
func show(root *os.Root, bind Bind) error {
	info, err := os.Stat(bind.Source)
	if err != nil {
		return fmt.Errorf("show %s: %w", bind.Source, err)
	}
	if info.IsDir() {
		err = root.MkdirAll(relative(bind.Target), 0o755)
	} else {
		err = write(root, bind.Target, nil)
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", bind.Source, err)
	}
	target := filepath.Join(root.Name(), bind.Target)
	if err := unix.Mount(bind.Source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", bind.Source, target, err)
	}
	return nil
}

// MountProc mounts the /proc of the caller's process id namespace at path. Root
// without capabilities may still write to much of it, so what belongs to the
// whole machine is read-only or hidden, as in a container.
func MountProc(path string) error {
	if err := unix.Mount("proc", path, "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount %s: %w", path, err)
	}
	for _, name := range []string{"bus", "fs", "irq", "sys", "sysrq-trigger"} {
		if err := protect(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	for _, name := range []string{
		"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "sched_debug", "scsi", "timer_list", "timer_stats",
	} {
		if err := hide(filepath.Join(path, name)); err != nil {
			return err
		}
	}
	return nil
}

func protect(path string) error {
	err := unix.Mount(path, path, "", unix.MS_BIND|unix.MS_REC, "")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = unix.MountSetattr(unix.AT_FDCWD, path, unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY})
	}
	if err != nil {
		return fmt.Errorf("protect %s: %w", path, err)
	}
	return nil
}

func hide(path string) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil && info.IsDir() {
		err = unix.Mount("tmpfs", path, "tmpfs", unix.MS_RDONLY, "size=0")
	} else if err == nil {
		err = unix.Mount("/dev/null", path, "", unix.MS_BIND, "")
	}
	if err != nil {
		return fmt.Errorf("hide %s: %w", path, err)
	}
	return nil
}

// enter makes root the root of this process and drops every other mount.
func enter(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root: %w", root, err)
	}
	// The old root lies on top of the new one now.
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("drop the old root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the new root: %w", err)
	}
	return nil
}
