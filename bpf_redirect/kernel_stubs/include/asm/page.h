/* SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause) */
/* bcc names PAGE_SIZE in macros that the programs don't use. */
#ifndef TG_STUB_PAGE_H
#define TG_STUB_PAGE_H

#define PAGE_SIZE 4096

#endif
