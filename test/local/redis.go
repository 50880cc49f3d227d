package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/juicefs-csi/driver/test/devcluster"
)

// FlushRedis empties a database of the cluster's Redis.
func FlushRedis(ctx context.Context, database int) error {
	return RedisCommands(ctx, fmt.Sprintf("SELECT %d", database), "FLUSHDB")
}

// RedisCommands speaks to the cluster's Redis; every command must be answered
// with OK.
func RedisCommands(ctx context.Context, commands ...string) error {
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", devcluster.RedisAddress)
	if err != nil {
		return fmt.Errorf("connect to Redis: %w", err)
	}
	defer func() { _ = conn.Close() }()
	answers := bufio.NewReader(conn)
	for _, command := range commands {
		if _, err := fmt.Fprint(conn, command+"\r\n"); err != nil {
			return fmt.Errorf("send to Redis: %w", err)
		}
		answer, err := answers.ReadString('\n')
		if err == nil && strings.TrimSpace(answer) != "+OK" {
			err = errors.New(strings.TrimSpace(answer))
		}
		if err != nil {
			return fmt.Errorf("redis command %s: %w", command, err)
		}
	}
	return nil
}

// RedisSecret is the Secret of a file system of that name with its metadata in a
// database of the cluster's Redis and its data in a directory of this machine.
func RedisSecret(name string, database int, directory string) map[string]string {
	return map[string]string{
		"name": name, "metaurl": fmt.Sprintf("redis://%s/%d", devcluster.RedisAddress, database),
		"storage": "file", "bucket": directory + "/",
	}
}
