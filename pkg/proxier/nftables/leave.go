package nftables

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"

	"github.com/nodeagent/nodeagent/pkg/proxier/nftables/elements"
)

// Leaver removes the table of one family, ours or a kube-proxy's, on a machine without nft, too.
// Connections go on, since conntrack keeps their translation. It implements proxier.Leaver.
type Leaver struct {
	family corev1.IPFamily
	log    *slog.Logger
}

// NewLeaver checks its arguments; it does nothing yet.
func NewLeaver(f corev1.IPFamily, log *slog.Logger) (*Leaver, error) {
	if f == "" || log == nil {
		return nil, errors.New("making the leaver of mode nftables: a family and a log are needed")
	}
	return &Leaver{f, log}, nil
}

// Leave removes the table. It never waits.
func (l *Leaver) Leave(ctx context.Context) (waiting int, err error) { return 0, l.Cleanup(ctx) }

// Cleanup removes the table. It works twice.
func (l *Leaver) Cleanup(context.Context) error {
	conn, found, err := l.find()
	if err != nil || found == nil {
		return err
	}
	conn.DelTable(found)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("deleting the nftables table kube-proxy of %s (nft delete table): %w", l.family, err)
	}
	l.log.Info("Deleted the nftables table kube-proxy", "family", l.family)
	return nil
}

// Found says whether there is the table.
func (l *Leaver) Found() (bool, error) {
	_, found, err := l.find()
	return found != nil, err
}

// find returns no table if there is none.
func (l *Leaver) find() (*nftables.Conn, *nftables.Table, error) {
	family := nftables.TableFamilyIPv4
	if l.family == corev1.IPv6Protocol {
		family = nftables.TableFamilyIPv6
	}
	conn, err := nftables.New()
	if err != nil {
		return nil, nil, fmt.Errorf("looking for the nftables table kube-proxy: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(family)
	if err != nil {
		l.log.Debug("The kernel lists no nftables tables", "family", l.family, "err", err)
		return conn, nil, nil
	}
	for _, t := range tables {
		if t.Name == elements.TableName {
			return conn, t, nil
		}
	}
	return conn, nil, nil
}
