package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

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
	for _, device := range []string{"/dev/null", "/dev/zero", "/dev/urandom", "/dev/random"} {
		if err := Show(Bind{Source: device, Target: filepath.Join(box.Root, device)}); err != nil {
			return err
		}
	}
	for _, bind := range box.Binds {
		bind.Target = filepath.Join(box.Root, bind.Target)
		if err := confinedBind(bind); err != nil {
			return err
		}
	}
	for path, content := range box.Files {
		if err := write(filepath.Join(box.Root, path), content); err != nil {
			return err
		}
	}
	for path, target := range box.Links {
		link := filepath.Join(box.Root, path)
		if err := errors.Join(os.MkdirAll(filepath.Dir(link), 0o755), os.Symlink(target, link)); err != nil { //nolint:gosec // as in an image
			return fmt.Errorf("make root: %w", err)
		}
	}
	return MountProc(filepath.Join(box.Root, "proc"))
}

func write(path string, content []byte) error {
	err := os.MkdirAll(filepath.Dir(path), 0o755) //nolint:gosec // as in an image
	if err == nil {
		err = os.WriteFile(path, content, 0o644) //nolint:gosec // as in an image
	}
	if err != nil {
		return fmt.Errorf("make root: %w", err)
	}
	return nil
}

// confinedBind shows what users have named: it brings neither devices nor
// programs that give rights.
func confinedBind(bind Bind) error {
	if bind.Create {
		if err := os.MkdirAll(bind.Source, 0o755); err != nil { //nolint:gosec // as kubelet does
			return fmt.Errorf("make directory %s: %w", bind.Source, err)
		}
	}
	if err := Show(bind); err != nil {
		return err
	}
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
	if bind.ReadOnly {
		attributes.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(unix.AT_FDCWD, bind.Target, unix.AT_RECURSIVE, &attributes); err != nil {
		return fmt.Errorf("restrict %s: %w", bind.Target, err)
	}
	return nil
}

// Show binds the source, with what is mounted below it, at the target, which is
// made: a directory or a file as the source is.
func Show(bind Bind) error {
	info, err := os.Stat(bind.Source)
	if err != nil {
		return fmt.Errorf("show %s: %w", bind.Source, err)
	}
	if info.IsDir() {
		err = os.MkdirAll(bind.Target, 0o755) //nolint:gosec // as in an image
	} else {
		err = write(bind.Target, nil)
	}
	if err != nil {
		return fmt.Errorf("show %s: %w", bind.Source, err)
	}
	if err := unix.Mount(bind.Source, bind.Target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", bind.Source, bind.Target, err)
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
