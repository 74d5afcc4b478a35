/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* include_next: bcc searches this directory as <linux/> too. */
#include_next <linux/ptrace.h>
